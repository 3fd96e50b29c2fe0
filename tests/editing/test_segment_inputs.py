"""Claims about what the model takes of a segment: values that depend on their arguments alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import make_scene

import loraedit
from loraedit.editing.segment_inputs import (
    GenerationInput,
    TrainingInput,
    carry_first_segment,
    generation_input,
    training_input,
)
from loraedit.editing.target_clip import TargetClip, open_target_clip, over_lower_targets
from loraedit.editing.windows import WindowReader
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.job.window import Window
from loraedit.propagation.carry import carry_keyframes
from loraedit.settings import make_settings
from loraedit.types import Image, Size

pytestmark = pytest.mark.usefixtures("coarse_flow")
SCENE = make_scene(9)


def open_clip(checkpoint: Path, segment_frames: int) -> TargetClip:
    """Opens the only target of an edit with a reference in frame 6."""
    settings = {"model": str(checkpoint), "segment_frames": segment_frames, "crop": "off", "fill": "carry"}
    references = {6: np.where(SCENE.mask[6][..., None], 255 - SCENE.source[6], SCENE.source[6])}
    request = EditRequest(SCENE.source, SCENE.edited_first, SCENE.mask, references, settings=make_settings(settings))
    job = prepare(request)
    return open_target_clip(job, job.targets[0])


def assert_equal(one: TrainingInput | GenerationInput, other: TrainingInput | GenerationInput) -> None:
    """Compares all arrays of two inputs."""
    np.testing.assert_equal(arrays(one), arrays(other))


def arrays(value: object) -> object:
    """Replaces dataclasses by dictionaries."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: arrays(getattr(value, name)) for name in value.__dataclass_fields__}
    return [arrays(item) for item in value] if isinstance(value, list) else value


def test_inputs_do_not_depend_on_earlier_calls(checkpoint: Path) -> None:
    clip, fresh = open_clip(checkpoint, 5), open_clip(checkpoint, 5)
    first, *_, last = clip.job.segments
    generated = SCENE.source[last.start : last.start + last.fixed] // 2
    assert last.fixed, "expected a segment with fixed frames"
    alone = generation_input(fresh, last, generated)
    training_input(clip, last)
    generation_input(clip, first, generated[:0], quick=True)
    training_input(clip, first)
    assert_equal(generation_input(clip, last, generated), alone)


def test_the_flow_that_training_and_generation_share_gives_what_each_measures_alone(checkpoint: Path) -> None:
    clip = open_clip(checkpoint, 9)
    (segment,) = clip.job.segments
    carried, nothing = carry_first_segment(clip), SCENE.source[:0]
    assert carried is not None
    assert_equal(training_input(clip, segment, carried), training_input(clip, segment))
    assert_equal(generation_input(clip, segment, nothing, carried), generation_input(clip, segment, nothing))


def test_a_clip_of_several_segments_keeps_none_of_them_in_memory(checkpoint: Path) -> None:
    assert carry_first_segment(open_clip(checkpoint, 5)) is None


def test_every_segment_has_a_path_to_the_keyframes_outside_of_it(checkpoint: Path) -> None:
    clip = open_clip(checkpoint, 5)
    for keyframe in clip.keyframes:
        outside = [segment for segment in clip.job.segments if keyframe.index not in segment]
        ends = {segment.start if keyframe.index < segment.start else segment.stop - 1 for segment in outside}
        assert set(keyframe.paths) == ends


def test_fixed_frames_are_shown_as_they_are(checkpoint: Path) -> None:
    clip = open_clip(checkpoint, 5)
    last = clip.job.segments[-1]
    generated = SCENE.source[last.start : last.start + last.fixed] // 2
    carried = generation_input(clip, last, generated).carried
    assert carried is not None
    assert np.array_equal(carried.frames[: last.fixed], generated)
    assert (carried.trust[: last.fixed] == 1).all()


def test_lower_targets_change_what_is_generated_and_not_what_is_learned(checkpoint: Path) -> None:
    clip = open_clip(checkpoint, 9)
    (segment,) = clip.job.segments
    over = over_lower_targets(clip, lambda start, stop: iter(255 - SCENE.source[start:stop]))
    assert np.array_equal(training_input(over, segment).source, training_input(clip, segment).source)
    nothing = SCENE.source[:0]
    below, plain = generation_input(over, segment, nothing).source, generation_input(clip, segment, nothing).source
    assert not np.array_equal(below, plain)


def test_a_window_reader_decodes_the_frames_of_overlapping_spans_once() -> None:
    read: list[int] = []

    def frames(start: int, stop: int | None) -> Iterator[Image]:
        for index in range(start, 9 if stop is None else stop):
            read.append(index)
            yield SCENE.source[index]

    reader = WindowReader(Window(Size(10, 12), np.full((9, 2), 4)), frames)
    first, second = reader.span(0, 5), reader.span(3, 8)
    assert read == list(range(8))
    assert np.array_equal(first[3:], second[:2])
    assert np.array_equal(second, SCENE.source[3:8, 4:14, 4:16])
    assert np.array_equal(np.stack([*reader.backwards(7)]), SCENE.source[7::-1, 4:14, 4:16])


@pytest.mark.parametrize("segment_frames", [5, 9])
def test_keyframes_are_carried_within_a_phase(
    checkpoint: Path, segment_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, before, after = list[tuple[str, int, int]](), list[tuple[str, int, int]](), list[int]()

    def carry(*arguments: Any) -> Any:
        before.append(events[-1])
        count = len(events)
        carried = carry_keyframes(*arguments)
        after.append(len(events) - count)
        return carried

    monkeypatch.setattr("loraedit.editing.segment_inputs.carry_keyframes", carry)
    loraedit.edit(
        SCENE.source, SCENE.edited_first, SCENE.mask, model=str(checkpoint), steps=1, sampling_steps=1, fill="carry",
        segment_frames=segment_frames, progress=lambda phase, done, total, _: events.append((phase, done, total)),
    )  # fmt: skip
    assert before, "expected carried keyframes"
    assert all(phase == "prepare" and done < total for phase, done, total in before)
    assert sum(after) > 4 * len(after), "expected a report for each frame"
