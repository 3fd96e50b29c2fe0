"""SAM 2.1 and SAM 3 as trackers: the same answers as transformers' own usage, on tiny random checkpoints."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tiny_trackers import save_tiny_tracker, tiny_edgetam, tiny_sam2, tiny_sam3, tiny_sam3_tracker
from torch.nn import functional as nnf

from loraedit.errors import InputError, ModelError
from loraedit.tracking import Hints, View, open_tracker
from loraedit.tracking.sam import prepared
from loraedit.types import Clip, Frames, Plane

FRAMES, HEIGHT, WIDTH = 12, 40, 72
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_tracker(tiny_sam2(), tmp_path_factory.mktemp("trackers") / "sam2")


@pytest.fixture(scope="module")
def frames() -> Frames:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)


def square() -> Plane:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[8:24, 20:50] = True
    return mask


HALF = torch.full((3,), 0.5)
NORMALISED = {"Sam2Video": (MEAN, DEVIATION), "EdgeTamVideo": (MEAN, DEVIATION), "Sam3TrackerVideo": (HALF, HALF)}


def as_transformers_does(
    folder: Path, frames: Frames, inputs: dict[int, dict[str, Any]], name: str = "Sam2Video",
    corrections: dict[int, dict[str, Any]] | None = None,
) -> list[Plane]:  # fmt: skip
    """The published way: inputs through the processor, then onwards and backwards from the first of them.

    A correction is given as soon as its frame was tracked, and tracking goes on after it. The processor itself needs
    torchvision to be made, its methods do not.
    """
    model = getattr(tf, f"{name}Model").from_pretrained(folder).eval()
    kind = tf.Sam3TrackerVideoProcessor if name == "Sam3TrackerVideo" else tf.Sam2VideoProcessor
    processor = kind.__new__(kind)
    processor.target_size, processor.point_pad_value = model.image_size, -10
    video = torch.stack([prepared(frame, model.image_size, *NORMALISED[name]) for frame in frames])
    session = getattr(tf, f"{name}InferenceSession")(video, HEIGHT, WIDTH, dtype=torch.float32)
    found: dict[int, torch.Tensor] = {}

    def show(index: int, given: dict[str, Any]) -> None:
        processor.add_inputs_to_inference_session(session, frame_idx=index, obj_ids=1, **given)
        found[index] = model(session, frame_idx=index).pred_masks

    def go(start: int, **how: Any) -> None:
        for output in model.propagate_in_video_iterator(session, start_frame_idx=start, **how):
            found[output.frame_idx] = output.pred_masks

    with torch.inference_mode():
        for index, given in inputs.items():
            show(index, given)
        start = first = min(inputs)
        for index, given in (corrections or {}).items():
            go(start, max_frame_num_to_track=index - start)
            show(index, given)
            start = index + 1
        go(start)
        go(first, reverse=True)
    large = [nnf.interpolate(found[index].half().float(), (HEIGHT, WIDTH), mode="bilinear") for index in range(FRAMES)]
    return [np.asarray((each[0, 0] > 0).numpy()) for each in large]


def check_against_transformers(
    folder: Path, frames: Frames, case: tuple[dict[int, Hints], dict[int, Any]], tracker: str, name: str,
    corrections: tuple[dict[int, Hints], dict[int, Any]] = ({}, {}),
) -> None:  # fmt: skip
    """Our masks are those of transformers, and no mere blank; a mask that was given is its own answer."""
    shown = {**case[0], **corrections[0]}
    found = open_tracker(tracker, folder).track(View(Clip(frames, Fraction(10))), shown)
    expected = as_transformers_does(folder, frames, case[1], name, corrections[1])
    for index in range(FRAMES):
        mask = shown[index].mask if index in shown else None
        assert np.array_equal(found[index], expected[index] if mask is None else mask), index
    assert any(0 < plane.sum() < plane.size for plane in expected)


CASES = {
    "points": ({0: Hints(points=((30, 20), (40, 12)), points_out=((5, 5),))},
               {0: {"input_points": [[[[30, 20], [40, 12], [5, 5]]]], "input_labels": [[[1, 1, 0]]]}}),
    "box in the middle": ({5: Hints(boxes=((20, 8, 50, 24),))}, {5: {"input_boxes": [[[20, 8, 50, 24]]]}}),
    "box and point": ({3: Hints(points_out=((60, 30),), boxes=((20, 8, 50, 24),))},
                      {3: {"input_points": [[[[60, 30]]]], "input_labels": [[[0]]],
                           "input_boxes": [[[20, 8, 50, 24]]]}}),
    "mask, and a box later": ({2: Hints(mask=square()), 9: Hints(boxes=((10, 8, 40, 24),))},
                              {2: {"input_masks": square()}, 9: {"input_boxes": [[[10, 8, 40, 24]]]}}),
    "stroke": ({0: Hints(strokes=(((10, 10), (30, 10)),))},
               {0: {"input_points": [[[[10, 10], [15, 10], [20, 10], [25, 10], [30, 10]]]],
                    "input_labels": [[[1] * 5]]}}),
}  # fmt: skip


CORRECTION = (
    {6: Hints(points=((5, 5),), points_out=((60, 30),))},
    {6: {"input_points": [[[[5, 5], [60, 30]]]], "input_labels": [[[1, 0]]]}},
)


@pytest.fixture(scope="module")
def sam3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_tracker(tiny_sam3_tracker(), tmp_path_factory.mktemp("trackers") / "sam3")


@pytest.mark.parametrize("name", CASES)
def test_the_answers_are_those_of_transformers(folder: Path, frames: Frames, name: str) -> None:
    check_against_transformers(folder, frames, CASES[name], "sam2", "Sam2Video")


@pytest.mark.parametrize("name", CASES)
def test_sam3_shown_things_answers_as_in_transformers(sam3: Path, frames: Frames, name: str) -> None:
    check_against_transformers(sam3, frames, CASES[name], "sam3", "Sam3TrackerVideo")


def test_a_correction_is_that_of_transformers(folder: Path, sam3: Path, frames: Frames) -> None:
    check_against_transformers(folder, frames, CASES["points"], "sam2", "Sam2Video", CORRECTION)
    check_against_transformers(sam3, frames, CASES["box and point"], "sam3", "Sam3TrackerVideo", CORRECTION)


def test_edgetam_answers_as_in_transformers(frames: Frames, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    folder = save_tiny_tracker(tiny_edgetam(), tmp_path / "edgetam")
    check_against_transformers(folder, frames, CASES["mask, and a box later"], "edgetam", "EdgeTamVideo")
    check_against_transformers(folder, frames, CASES["points"], "edgetam", "EdgeTamVideo", CORRECTION)


def test_words_find_what_transformers_finds_by_them(frames: Frames, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    folder, clip = tiny_sam3(tmp_path / "sam3"), Clip(frames[:6], Fraction(10))
    found = open_tracker("sam3", folder, "a red coat").track(View(clip), {})
    model = tf.Sam3VideoModel.from_pretrained(folder).eval()
    processor = tf.Sam3VideoProcessor.__new__(tf.Sam3VideoProcessor)
    processor.tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    video = torch.stack([prepared(frame, model.config.image_size, HALF, HALF) for frame in clip.frames])
    session = tf.Sam3VideoInferenceSession(video, HEIGHT, WIDTH, dtype=torch.float32)
    processor.add_text_prompt(session, "a red coat")
    areas = []
    with torch.inference_mode():
        for output in model.propagate_in_video_iterator(session):
            masks = processor.postprocess_outputs(session, output)["masks"].numpy()
            assert np.mean(masks.any(0) == found[output.frame_idx]) > 0.999
            areas.append(int(masks.sum()))
    assert len(areas) == len(found) and any(areas)
    corrected = open_tracker("sam3", folder, "a red coat").track(View(clip), {4: Hints(points=((5, 5),))})
    assert np.array_equal(corrected[0], found[0])


def test_words_need_the_whole_model(sam3: Path) -> None:
    with pytest.raises(ModelError, match="does not read text"):
        open_tracker("sam3", sam3, "a red coat")


def test_a_point_on_a_later_frame_corrects_from_there_on(folder: Path, frames: Frames) -> None:
    tracker, view = open_tracker("sam2", folder), View(Clip(frames, Fraction(10)))
    start = {0: Hints(points=((30, 20),))}
    steps: list[tuple[int, int]] = []
    before = tracker.track(view, start, lambda *step: steps.append(step))
    after = tracker.track(view, {**start, 6: Hints(points=((5, 5),), points_out=((60, 30),))})
    same = [np.array_equal(one, other) for one, other in zip(before, after, strict=True)]
    assert all(same[:6]) and not all(same[6:])
    assert steps == [(done + 1, FRAMES) for done in range(FRAMES)]


def test_what_does_not_go_together_is_refused(folder: Path, frames: Frames, tmp_path: Path) -> None:
    tracker, view = open_tracker("sam2", folder), View(Clip(frames, Fraction(10)))
    with pytest.raises(InputError, match="a mask of the object and further hints"):
        tracker.track(view, {0: Hints(points=((3, 3),), mask=square())})
    with pytest.raises(InputError, match="off the object"):
        tracker.track(view, {0: Hints(points_out=((3, 3),))})
    with pytest.raises(InputError, match="2 boxes"):
        tracker.track(view, {0: Hints(boxes=((0, 0, 3, 3), (4, 4, 9, 9)))})
    with pytest.raises(ModelError, match="'sam2_video', but the tracker sam3 expects sam3_video"):
        open_tracker("sam3", folder)
    (tmp_path / "config.json").write_text('{"model_type": "sam2_video"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="no other format is loaded"):
        open_tracker("sam2", tmp_path)
