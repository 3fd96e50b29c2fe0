"""The training samples of an edit target: motion samples of the source, appearance samples of the references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from loraedit.diffusion import samples as conditioning
from loraedit.diffusion.samples import Guide, Sample
from loraedit.editing.ahead import Ahead
from loraedit.editing.cache import StageCache
from loraedit.editing.preparation import Preparation
from loraedit.editing.prepared_segment import prepare_training
from loraedit.editing.reporter import Reporter
from loraedit.editing.segment_inputs import CarriedSegment, TrainingInput, first_frame, training_input
from loraedit.editing.target_clip import TargetClip
from loraedit.families.base import Encoded
from loraedit.job.segments import TRAINING_SEGMENTS, Segment, spread
from loraedit.settings import ResolvedSettings
from loraedit.types import OnStep, Pixels, no_step, part_of

__all__ = ["TrainingSamples"]


@dataclass(frozen=True)
class _SegmentSamples:
    """The samples of one segment.

    Attributes:
        motion: samples of the source.
        appearance: samples of the references in the segment, by frame index of the clip.
    """

    motion: list[Sample]
    appearance: dict[int, Sample]

    def all(self) -> list[Sample]:
        """Returns all samples, those of the source first."""
        return [*self.motion, *self.appearance.values()]


class TrainingSamples:
    """Makes the training samples of an edit target, one segment at a time so that memory holds a single segment.

    Motion samples come from a few edited segments, evenly spread over the clip. Every reference gives one appearance
    sample. Samples are made once for their keys, and again to be encoded if there is something to train.

    Attributes:
        motion: keys of the motion samples.
        appearance: keys of the appearance samples by frame index.

    Args:
        carried: the keyframes carried through the first segment, if they are known.
        ahead: prepares a segment while the one before is encoded.
        reporter: reports the carrying of keyframes.
        on_step: called with (steps done, steps in all) while the keys are made.
    """

    def __init__(
        self,
        settings: ResolvedSettings,
        segments: Sequence[Segment],
        clip: TargetClip,
        cache: StageCache,
        carried: CarriedSegment | None,
        ahead: Ahead,
        reporter: Reporter,
        on_step: OnStep,
    ) -> None:
        self._settings, self._clip, self._cache = settings, clip, cache
        self._carried, self._reporter = carried, reporter
        carries = settings.carries and carried is None
        self._preparation = Preparation(ahead, clip, prepare_training, carries)
        references = sorted(clip.target.references) if settings.reference_steps else []
        edited = [segment for segment in segments if clip.target.edits(segment)]
        self._motion_segments = spread(edited, TRAINING_SEGMENTS)
        self._segment_of = {index: next(part for part in segments if index in part) for index in references}
        used = [*self._motion_segments, *self._segment_of.values()]
        self._segments = [segment for segment in segments if segment in used]
        self._encoded: dict[str, Encoded] = {}
        self.motion: list[str] = []
        self.appearance: dict[int, str] = {}
        for part, segment in enumerate(self._segments):
            samples = self._samples(segment, part_of(on_step, part, len(self._segments)))
            self.motion += [cache.sample_key(sample) for sample in samples.motion]
            self.appearance |= {index: cache.sample_key(sample) for index, sample in samples.appearance.items()}

    def encoded(self, keys: Sequence[str]) -> list[Encoded]:
        """Returns the encoded samples of these keys. The first call encodes all samples."""
        if not self._encoded:
            parts = len(self._segments)
            for part, segment in enumerate(self._segments):
                samples = self._samples_again(segment, part).all()
                self._preparation.start(self._segments[part + 1] if part + 1 < parts else None)
                self._encoded |= self._cache.encoded(samples, part, parts)
        return [self._encoded[key] for key in keys]

    def _samples_again(self, segment: Segment, part: int) -> _SegmentSamples:
        """Makes the samples of a segment after their keys are known. Carrying keyframes is reported as a phase."""
        if not self._preparation.carries:
            return self._samples(segment)
        with self._reporter.phase("prepare", part, len(self._segments)) as on_step:
            return self._samples(segment, on_step)

    def _samples(self, segment: Segment, on_step: OnStep = no_step) -> _SegmentSamples:
        """Makes the samples of a segment."""
        prepared = self._preparation.take(segment, part_of(on_step, 0, 2))
        inputs = training_input(self._clip, segment, self._carried, part_of(on_step, 1, 2), prepared)
        motion = self._motion_samples(segment, inputs) if segment in self._motion_segments else []
        inside = [index for index, holder in self._segment_of.items() if holder == segment]
        appearance = {index: self._appearance_sample(segment, inputs, index) for index in inside}
        rate = self._clip.job.frame_rate
        return _SegmentSamples(
            [replace(sample, frame_rate=rate) for sample in motion],
            {index: replace(sample, frame_rate=rate) for index, sample in appearance.items()},
        )

    def _motion_samples(self, segment: Segment, inputs: TrainingInput) -> list[Sample]:
        """Makes the motion samples of a segment: the source itself, and its share of the colour variants."""
        changes = conditioning.colour_changes(self._settings.train_seed, self._settings.colour_variants)
        samples = []
        for variant, recolour in enumerate(changes):
            share = (variant - 1) % len(self._motion_segments)
            if variant and share != self._motion_segments.index(segment):
                continue
            samples += self._motion_variant(segment, inputs, variant, recolour)
        return samples

    def _motion_variant(
        self, segment: Segment, inputs: TrainingInput, variant: int, recolour: Callable[[Pixels], Pixels]
    ) -> list[Sample]:
        """Makes the motion samples of a segment in one colour variant; variant 0 is the source itself."""
        source, prompt = recolour(inputs.source), self._clip.target.texts.source
        guides = [Guide(recolour(guide.pixels), guide.trusted) for guide in inputs.source_guides]
        kept = [*range(1, segment.fixed), *(inputs.references if self._settings.condition_on_references else ())]
        if self._settings.lora == "naive":
            samples = [conditioning.naive_sample(source, prompt, kept)]
        else:  # the source itself is shown with each guide, a colour variant with one of them in turn
            shown: list[Guide | None] = [*(guides[variant % 2 : variant % 2 + 1] if variant else guides)]
            samples = [
                conditioning.motion_sample(source, inputs.mask, prompt, guide, kept) for guide in shown or [None]
            ]
        image = recolour(first_frame(self._clip, edited=False))
        return [replace(sample, image=image) for sample in samples]

    def _appearance_sample(self, segment: Segment, inputs: TrainingInput, frame: int) -> Sample:
        """Makes the appearance sample of a reference, a frame of the segment."""
        index, text = frame - segment.start, self._clip.target.texts.reference(frame)
        guide, at = inputs.first_frame_guide, slice(index, index + 1)
        carried = Guide(guide.pixels[at], guide.trusted[at]) if guide else None
        return conditioning.appearance_sample(
            inputs.source[at], inputs.references[index], inputs.reference_masks[index], text, carried
        )
