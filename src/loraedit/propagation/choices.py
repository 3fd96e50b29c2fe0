"""What is blended into one frame: paths, parts, and the weights of a choice of keyframes.

:mod:`loraedit.propagation.blending` blends with numpy, and :mod:`loraedit.propagation.device_blending` on a device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from loraedit.propagation.added_parts import PlacedPart
from loraedit.propagation.layers import KeyframeLayers
from loraedit.propagation.paths import FlowPath
from loraedit.types import Image, Weights

__all__ = [
    "ERROR_LEVELS",
    "EXPLAINED_LEVELS",
    "LEAST_WEIGHT",
    "NO_WEIGHT",
    "TRUST_RAMP",
    "Blend",
    "Blender",
    "Choice",
    "FrameLayers",
]

TRUST_RAMP = (26.0, 34.0)
"""Grey levels of photometric error: full trust up to the first, none from the second on. On the cases of
``benchmarks/propagation``, 63 % of the carried pixels with an error around 30 levels are wrong by more than 32 levels,
and all pixels above it together are farther from the truth (12.3 dB) than what even nano makes of noise there."""

EXPLAINED_LEVELS = 60.0
"""Grey levels of photometric error at which the weight of the source's own pixel has fallen to 1 / e."""

ERROR_LEVELS = 8.0
"""Grey levels of photometric error by which the weight of a path falls to 1 / e."""

GENERATED_HANDICAP = 3 * ERROR_LEVELS
"""Grey levels of error that are added to the paths to a generated frame, so that the user's keyframes win."""

LEAST_WEIGHT = 1e-6
"""Share of its weight that a path keeps where nothing speaks for it, so that every pixel gets some colour."""

NO_WEIGHT = 1e-9
"""The sum of weights before the first path, so that nothing is divided by 0."""

Blend = tuple[Image, Weights]
"""A blended frame, uint8 ``[H, W, 3]``, and the largest trust of any path, float32 ``[H, W]``."""


@dataclass(frozen=True)
class FrameLayers:
    """Everything that may be blended into a frame.

    Attributes:
        index: index of the frame.
        source: the source frame, uint8 ``[H, W, 3]``.
        paths: index of the keyframe and the path that leads there, in the order in which they are added.
        parts: what the keyframes add beside an object, by the keyframe's name; names without one are left out.
    """

    index: int
    source: Image
    paths: tuple[tuple[int, FlowPath], ...]
    parts: Mapping[str, PlacedPart]


class Choice:
    """The keyframes of one result, and how much a path to each of them counts.

    Args:
        layers: the keyframes by name; their indices differ.
        names: those of the result, at least one.
    """

    def __init__(self, layers: Mapping[str, KeyframeLayers], names: Collection[str]) -> None:
        assert names, "expected at least one keyframe in each choice"
        keyframes = {name: layers[name].keyframe for name in names}
        self._names = {keyframe.index: name for name, keyframe in keyframes.items()}
        self._generated = {keyframe.index for keyframe in keyframes.values() if keyframe.generated}
        self._edited = [keyframe.index for keyframe in keyframes.values() if not keyframe.generated]

    def name(self, keyframe_index: int) -> str | None:
        """Returns the name of the keyframe of an index; None if the result has none."""
        return self._names.get(keyframe_index)

    def handicap(self, frame: int, keyframe_index: int) -> tuple[float, int]:
        """Returns the grey levels that are added to the error of a path, and its length in frames.

        A path to a generated frame gets a handicap, and the length of the shortest path to a keyframe of the user:
        what was generated was carried from there.
        """
        length = abs(frame - keyframe_index)
        if keyframe_index not in self._generated:
            return 0.0, length
        return GENERATED_HANDICAP, max(1, min((abs(frame - index) for index in self._edited), default=length))


class Blender(Protocol):
    """Blends everything that the keyframes say of a frame, for each choice of keyframes."""

    def blend(self, frame: FrameLayers) -> list[Blend]:
        """Returns one blended frame for each choice."""
        ...
