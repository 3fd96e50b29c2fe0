"""Claims about flow estimators: the one of the package, and one that a test brings along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from scenes import Scene, make_scene
from toy_flow import ShiftEstimator

import loraedit
from loraedit.errors import InputError
from loraedit.optical_flow.base import FlowEstimator, FlowOptions
from loraedit.optical_flow.dis import DisEstimator
from loraedit.optical_flow.estimators import ESTIMATORS, flow_between, open_estimator, register_estimator
from loraedit.propagation.carry import carry_edits
from loraedit.types import Image, Size

SIZE = Size(64, 96)


@pytest.fixture
def toy() -> Iterator[str]:
    """Registers an estimator for one test, under the name it gives."""
    register_estimator("toy", ShiftEstimator)
    yield "toy"
    del ESTIMATORS["toy"]


def shifted_pair(x: int, y: int) -> tuple[Image, Image]:
    rough = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    large = cv2.resize(rough, (192, 128), interpolation=cv2.INTER_CUBIC)
    return large[32:96, 48:144], large[32 - y : 96 - y, 48 - x : 144 - x]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("estimator", ["dis", "toy"])
@pytest.mark.parametrize("min_side_px", [0, 160])
def test_an_estimator_finds_where_pixels_went_in_pixels_of_the_frames(estimator: str, min_side_px: int) -> None:
    flow = flow_between(open_estimator(SIZE, FlowOptions(estimator, min_side_px)), *shifted_pair(4, 2))
    assert flow.shape == (SIZE.height, SIZE.width, 2) and flow.dtype == np.float32
    assert np.allclose(np.median(flow, (0, 1)), (4, 2), atol=0.5)


def test_a_first_guess_is_not_written_to() -> None:
    estimator: FlowEstimator = DisEstimator(SIZE, FlowOptions())
    a, b = (estimator.prepare(frame) for frame in shifted_pair(4, 2))
    guess = np.full((SIZE.height, SIZE.width, 2), 3, np.float32)
    flow = estimator.flow(a, b, guess)
    assert (guess == 3).all() and flow is not guess


def test_an_unknown_estimator_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(InputError, match=r"Unknown flow estimator 'raft'. Use one of: dis"):
        open_estimator(SIZE, FlowOptions("raft"))


def test_an_estimator_from_outside_carries_keyframes(toy: str) -> None:
    frame, moved = shifted_pair(4, 2)
    carried = carry_edits(np.stack([frame, moved]), {0: 255 - frame}, flow=FlowOptions(toy)).frames[1]
    inner = slice(8, -8), slice(8, -8)
    assert np.abs(carried[inner].astype(int) - (255 - moved[inner])).mean() < 8


@pytest.mark.usefixtures("coarse_flow")
def test_an_estimator_from_outside_serves_a_whole_edit(checkpoint: Path, toy: str) -> None:
    """Two segments and a reference: keyframes are traced, carried, learned from and generated from."""
    scene, before = make_scene(9), ShiftEstimator.flows
    ShiftEstimator.devices.clear()
    references = {6: np.where(scene.mask[6][..., None], 255 - scene.source[6], scene.source[6])}
    by_toy, by_dis = (
        loraedit.edit(
            scene.source,
            scene.edited_first,
            scene.mask,
            references=references,
            flow_estimator=name,
            model=str(checkpoint),
            steps=2,
            sampling_steps=1,
            fill="carry",
            segment_frames=5,
        )
        for name in (toy, "dis")
    )
    assert ShiftEstimator.flows > before
    assert ShiftEstimator.devices == {"cpu"}, "expected the device of the run"
    assert by_toy.outside_exact and by_toy.clip.frames.shape == scene.source.shape
    assert not np.array_equal(by_toy.clip.frames, by_dis.clip.frames), "both estimators show the model the same"


def test_an_unknown_estimator_is_refused_before_anything_is_read(checkpoint: Path, scene: Scene) -> None:
    with pytest.raises(InputError, match="Unknown flow estimator 'raft'"):
        loraedit.edit(scene.source, scene.edited_first, scene.mask, flow_estimator="raft", model=str(checkpoint))
