"""Counts what encoders and VAE read in an edit, by the family's own answers: each text, picture and clip once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loraedit.diffusion.samples import Sample
from loraedit.families.base import Family
from loraedit.families.encoding import input_key, inputs_of
from loraedit.job.segments import TRAINING_SEGMENTS
from loraedit.job.targets import Texts
from loraedit.settings import ResolvedSettings
from loraedit.storage.files import fingerprint
from loraedit.types import Pixels

__all__ = ["Encodings", "encodings_of"]


@dataclass(frozen=True)
class Encodings:
    """The distinct things that are encoded and decoded for some edit targets.

    Attributes:
        texts: texts that are read without a picture; targets may share them.
        texts_with_picture: texts that are read with one, by models that read both together.
        pictures: what an image encoder reads.
        clips: clips that the VAE encodes.
        frames: single frames that it encodes.
        decoded: clips that it decodes.
    """

    texts: frozenset[str] = frozenset()
    texts_with_picture: int = 0
    pictures: int = 0
    clips: int = 0
    frames: int = 0
    decoded: int = 0

    def __add__(self, other: Encodings) -> Encodings:
        """Returns the encodings of two targets, which see different pixels."""
        return Encodings(
            self.texts | other.texts,
            self.texts_with_picture + other.texts_with_picture,
            self.pictures + other.pictures,
            self.clips + other.clips,
            self.frames + other.frames,
            self.decoded + other.decoded,
        )


def encodings_of(
    family: Family, settings: ResolvedSettings, texts: Texts, segments: int, references: int, *, trains: bool
) -> Encodings:
    """Returns the encodings of one edit target.

    Args:
        family: the model.
        settings: the settings of the edit.
        texts: what the model is told; source and edited text count as two, even if they are the same.
        segments: number of segments to generate.
        references: number of edited frames besides the first.
        trains: whether a LoRA is trained.
    """
    samples = list(_generated(texts, segments))
    if trains:
        samples += _trained(settings, texts, segments, references if settings.reference_steps else 0)
    inputs = [each for sample in samples for each in inputs_of(family, sample)]
    if family.card.guided(settings.guidance):
        inputs += family.encoder_inputs("negative")
    read = list({input_key(each): each for each in inputs}.values())
    clips = list({fingerprint(clip): clip for sample in samples for clip in family.clips(sample)}.values())
    pictured = [each for each in read if each.pictures]
    return Encodings(
        texts=frozenset(each.prompt for each in read if each.prompt is not None and not each.pictures),
        texts_with_picture=sum(each.prompt is not None for each in pictured),
        pictures=sum(each.prompt is None for each in pictured),
        clips=sum(len(clip) > 1 for clip in clips),
        frames=sum(len(clip) == 1 for clip in clips),
        decoded=segments * (2 if settings.carries and settings.restore_detail else 1),
    )


def _generated(texts: Texts, segments: int) -> Iterator[Sample]:
    """Yields a stand-in for the condition of each segment."""
    for segment in range(segments):
        condition = _clip(("edited", segment), ("shown", segment))
        yield _stand_in(f"edited: {texts.edited}", _clip(("edited",)), condition)


def _trained(settings: ResolvedSettings, texts: Texts, segments: int, references: int) -> Iterator[Sample]:
    """Yields a stand-in for each training sample: of segments, of their colour variants, and of references."""
    prompt = f"source: {texts.source}"
    for segment in range(min(segments, TRAINING_SEGMENTS)):
        source = ("source", segment)
        for guide in range(2 if settings.carries else 1):  # carried from one end and from both
            condition = _clip(source, ("shown in training", segment, guide))
            yield _stand_in(prompt, _clip(("source",)), condition, _clip(source, ("rest", segment)))
    for variant in range(1, settings.colour_variants):
        first = ("variant", variant)
        yield _stand_in(prompt, _clip(first), _clip(first, ("shown", *first)), _clip(first, ("rest", *first)))
    captions = [*texts.references.values(), *[texts.edited] * references][:references]
    for reference, caption in enumerate(captions):
        images = (_clip((name, reference)) for name in ("source keyframe", "shown in keyframe", "keyframe"))
        yield _stand_in(f"edited: {caption}", *images)


def _stand_in(prompt: str, image: Pixels, condition: Pixels, target: Pixels | None = None) -> Sample:
    """Returns a sample whose pixels only tell which clips are the same."""
    nowhere = np.zeros(condition.shape[:3], bool)
    return Sample(condition, nowhere, nowhere, image, prompt, target)


def _clip(*frames: tuple[str | int, ...]) -> Pixels:
    """Returns a clip of one pixel in colours that stand for the names of its frames."""
    digests = [fingerprint(*name) for name in frames]
    colours = [[int(digest[at : at + 4], 16) for at in (0, 4, 8)] for digest in digests]
    return np.array(colours, np.float32)[:, None, None]
