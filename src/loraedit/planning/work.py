"""The work of an edit: what a plan counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loraedit.families import open_family
from loraedit.families.base import Expert
from loraedit.families.card import ModelCard
from loraedit.job.segments import TRAINING_SEGMENTS
from loraedit.job.targets import Texts
from loraedit.lora.extra import parse_extra
from loraedit.planning.encodings import Encodings, encodings_of
from loraedit.planning.phase_cost import Shape
from loraedit.planning.uses import Uses
from loraedit.sampling.schedule import experts_trained, experts_used
from loraedit.settings import ResolvedSettings, SamplingSettings, TrainSettings
from loraedit.types import Size
from loraedit.video.scaling import padded_length

__all__ = ["Work", "work_of", "work_of_all"]

NO_TEXTS = Texts("", "")
NONE = Encodings()


@dataclass(frozen=True)
class Work:
    """The work of an edit, with all samples of one shape.

    Attributes:
        shape: the shape that the model sees.
        train: settings of the training; its steps are those of one expert, including the steps for references.
        sampling: settings of the sampling.
        uses: the transformers that it takes.
        samples: clips to encode.
        reference_samples: edited frames to train on.
        segments: number of clips of this length to generate.
        clip_frames: frames of the whole clip, or a few more.
        guided: whether a sampling step takes a second forward pass, without the prompt.
        encodings: what encoders and VAE read.
    """

    shape: Shape
    train: TrainSettings
    sampling: SamplingSettings
    uses: Uses
    samples: int = 1
    reference_samples: int = 0
    segments: int = 1
    clip_frames: int = 0
    guided: bool = False
    encodings: Encodings = NONE

    @property
    def passes(self) -> int:
        """Returns the number of forward passes in sampling."""
        return self.segments * self.sampling.sampling_steps * (2 if self.guided else 1)

    @property
    def train_steps(self) -> int:
        """Returns the training steps of all experts."""
        return self.train.steps * len(self.uses.trained)

    @property
    def may_stop_early(self) -> bool:
        """Returns whether training ends before its last step once nothing is gained."""
        return self.train_steps > 0 and self.train.check_every > 0


def work_of(
    card: ModelCard, settings: ResolvedSettings, size: Size, frames: list[int], references: int,
    clip_frames: int | None = None, texts: Texts = NO_TEXTS,
) -> Work:  # fmt: skip
    """Returns the work of an edit of one target.

    Args:
        size: what the model sees, at the size at which it works: :meth:`ModelCard.working_size`.
        frames: the number of frames of each segment to generate.
        references: number of edited frames besides the first.
        clip_frames: frames of the whole clip; None means those of all segments together.
        texts: what the model is told, if it is known.
    """
    shape = Shape(padded_length(max(frames), card.frame_step), size)
    training = settings.training()
    sampling, samples, family = settings.sampling(), 0, open_family(card)
    trained = experts_trained(family, settings) if settings.lora != "none" else ()
    if trained:
        source = min(len(frames), TRAINING_SEGMENTS) * (1 + settings.carries)  # carried from one end and from both
        samples = source + training.colour_variants - 1
    training = training.model_copy(update={"steps": settings.training_steps(references)})
    return Work(
        shape,
        training,
        sampling,
        _uses(settings, experts_used(family, sampling), trained),
        samples=samples,
        reference_samples=references,
        segments=len(frames),
        clip_frames=clip_frames or sum(frames),
        guided=card.guided(sampling.guidance),
        encodings=encodings_of(family, settings, texts, len(frames), references, trains=bool(trained)),
    )


def _uses(settings: ResolvedSettings, experts: Sequence[Expert], trained: Sequence[Expert]) -> Uses:
    return Uses(
        experts=tuple(expert.name for expert in experts),
        trained=tuple(expert.name for expert in trained),
        extras=tuple(parse_extra(text) for text in settings.extra_lora),
        extra_in_training=settings.extra_in_training,
        previews=settings.preview_every > 0,
    )


def work_of_all(works: Sequence[Work]) -> Work:
    """Adds up the work of the targets of one edit, as if all had the longest segment and the largest window."""
    first = works[0]
    largest = max((work.shape.size for work in works), key=lambda size: size.height * size.width)
    return replace(
        first,
        shape=Shape(max(work.shape.frames for work in works), largest),
        train=first.train.model_copy(update={"steps": sum(work.train.steps for work in works)}),
        samples=sum(work.samples for work in works),
        reference_samples=sum(work.reference_samples for work in works),
        segments=sum(work.segments for work in works),
        encodings=sum((work.encodings for work in works), NONE),
    )
