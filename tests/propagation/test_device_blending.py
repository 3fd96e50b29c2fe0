"""Claims about blending with torch: it computes what the reference computes with numpy."""

from __future__ import annotations

import numpy as np
import pytest
from test_carry import FRAMES, HATTED, LOOSE, SOURCE, TRUTH, source_keyframe

from loraedit.optical_flow.base import FlowOptions
from loraedit.propagation import carry
from loraedit.propagation.carry import CarriedKeyframes, carry_keyframes
from loraedit.propagation.device_blending import DeviceBlender
from loraedit.propagation.keyframes import Keyframe
from loraedit.propagation.paths import FlowPath, find_paths

KEYFRAMES = {
    "hat": Keyframe(0, HATTED[0], SOURCE[0]),
    "source": source_keyframe(0),
    "last": Keyframe(FRAMES - 1, TRUTH[-1], SOURCE[-1]),
    "generated": Keyframe(2, HATTED[2], SOURCE[2], generated=True),
}
CHOICES = [["hat"], ["source", "last"], ["hat", "generated", "last"]]


@pytest.fixture
def with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blends on the CPU as on any other device."""
    monkeypatch.setattr(carry, "_open_blender", lambda layers, choices, _: DeviceBlender(layers, choices, "cpu"))


def assert_close(one: list[CarriedKeyframes], other: list[CarriedKeyframes]) -> None:
    """Compares results to a few grey levels and trust to 1/100; OpenCV before 5 samples in steps of 1/32 pixel."""
    for got, wanted in zip(one, other, strict=True):
        difference = np.abs(got.frames.astype(int) - wanted.frames)
        assert difference.max() <= 4 and difference.mean() < 0.1
        assert np.abs(got.trust - wanted.trust).mean() < 1e-2


def carried() -> list[CarriedKeyframes]:
    return carry_keyframes(SOURCE, KEYFRAMES, CHOICES, LOOSE, FlowOptions(smoothness=5.0))


def test_a_device_blends_as_the_reference_does(request: pytest.FixtureRequest) -> None:
    wanted = carried()
    assert (wanted[0].frames[3] != wanted[1].frames[3]).any(), "expected an attached part"
    request.getfixturevalue("with_torch")
    assert_close(carried(), wanted)


def test_a_device_enlarges_flow_as_the_reference_does(request: pytest.FixtureRequest) -> None:
    paths = find_paths(SOURCE, KEYFRAMES.values(), FlowOptions(smoothness=5.0))
    halved = {
        index: tuple(
            tuple(FlowPath.packed(path.frame, path.flow[1::2, 1::3], path.direct) for path in walk) for walk in walks
        )
        for index, walks in paths.items()
    }
    wanted = carry_keyframes(SOURCE, KEYFRAMES, CHOICES, paths=halved)
    request.getfixturevalue("with_torch")
    assert_close(carry_keyframes(SOURCE, KEYFRAMES, CHOICES, paths=halved), wanted)


@pytest.mark.parametrize("shape", [(1, 12), (12, 1), (2, 3)])
def test_a_device_blends_frames_that_are_smaller_than_the_blur(
    shape: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    source = np.random.default_rng(0).integers(0, 256, (3, *shape, 3), np.uint8)
    flow = np.full((*shape, 2), 0.5, np.float32)
    paths = {0: (tuple(FlowPath.packed(frame, flow, direct) for frame in (1, 2) for direct in (False, True)),)}
    keyframes = {"edited": Keyframe(0, 255 - source[0], source[0])}
    wanted = carry_keyframes(source, keyframes, [["edited"]], paths=paths)
    request.getfixturevalue("with_torch")
    assert_close(carry_keyframes(source, keyframes, [["edited"]], paths=paths), wanted)


@pytest.mark.usefixtures("with_torch")
def test_equal_inputs_give_equal_bytes() -> None:
    paths = find_paths(SOURCE, KEYFRAMES.values(), FlowOptions(smoothness=5.0))
    one, other = (carry_keyframes(SOURCE, KEYFRAMES, CHOICES, paths=paths) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert np.array_equal(first.frames, second.frames) and np.array_equal(first.trust, second.trust)
