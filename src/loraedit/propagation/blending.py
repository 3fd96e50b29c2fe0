"""Blending of keyframes that are warped along several flow paths: weights, trust, and the canvas that sums them up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from loraedit.optical_flow.fields import Field
from loraedit.propagation.added_parts import AttachedPart
from loraedit.propagation.keyframes import Keyframe
from loraedit.types import Frames, Pixels, Weights

__all__ = ["Canvas", "CarriedLayer", "ScoredPath"]

ERROR_LEVELS = 8.0
"""Grey levels of photometric error by which the weight of a path falls to 1 / e."""

GENERATED_HANDICAP = 3 * ERROR_LEVELS
"""Grey levels of error that are added to the paths to a generated frame, so that the user's keyframes win."""

LEAST_WEIGHT = 1e-6
"""Share of its weight that a path keeps where nothing speaks for it, so that every pixel gets some colour."""


@dataclass(frozen=True)
class ScoredPath:
    """A flow path with how well it explains the source.

    Attributes:
        keyframe_index: index of the keyframe that the path leads to.
        frame: index of the frame that it starts from.
        positions: where each pixel of the frame lies in the keyframe, ``[H, W, 2]``.
        error: photometric error along the path, ``[H, W]`` in grey levels.
        trust: ``[H, W]`` in [0, 1], from the error.
        direct: whether the path was measured in one go; else it is chained.
    """

    keyframe_index: int
    frame: int
    positions: Field
    error: Weights
    trust: Weights
    direct: bool


@dataclass(frozen=True)
class CarriedLayer:
    """A keyframe warped along a path.

    Attributes:
        colours: float32 ``[H, W, 3]``.
        soundness: ``[H, W]`` in [0, 1], how far the source's flow says where the edit's pixels go.
        part: what the keyframe adds beside an object, attached to it in this frame.
    """

    colours: Pixels
    soundness: Weights
    part: AttachedPart | None


class Canvas:
    """Sums up the warped keyframes of one result, and the added parts that are laid over them.

    Args:
        shape: F, H, W.
        keyframes: the keyframes of the result by name; their indices differ.
        has_added_parts: whether any of them adds a part.
    """

    def __init__(self, shape: tuple[int, ...], keyframes: Mapping[str, Keyframe], has_added_parts: bool) -> None:
        self._names = {keyframe.index: name for name, keyframe in keyframes.items()}
        self._generated = {keyframe.index for keyframe in keyframes.values() if keyframe.generated}
        self._edited = [keyframe.index for keyframe in keyframes.values() if not keyframe.generated]
        self._total = np.full((*shape, 1), 1e-9, np.float32)
        self._trust = np.zeros(shape, np.float32)
        self._colours = np.zeros((*shape, 3), np.float32)
        self._parts = np.zeros((*shape, 4), np.float32) if has_added_parts else None
        self._part_weights = np.full(shape[0], 1e-9, np.float32)

    def add(self, path: ScoredPath, layers: Mapping[str, CarriedLayer]) -> None:
        """Adds the keyframe of the path's index; without one, the path is ignored.

        Added parts are laid along chained paths only, so that they count once for each frame.

        Args:
            path: the path.
            layers: the keyframes of its index, warped, by name.
        """
        name = self._names.get(path.keyframe_index)
        if name is None:
            return
        layer, frame = layers[name], path.frame
        handicap, length = self._handicap(path)
        explained = layer.soundness * np.exp(-(path.error + np.float32(handicap)) / ERROR_LEVELS)
        weight = (explained[..., None] + np.float32(LEAST_WEIGHT)) / length
        self._total[frame] += weight
        self._colours[frame] += weight * layer.colours
        self._trust[frame] = np.maximum(self._trust[frame], path.trust * layer.soundness)
        if not path.direct:
            self._add_part(frame, float(np.exp(-handicap / ERROR_LEVELS)) / length, layer.part)

    def _handicap(self, path: ScoredPath) -> tuple[float, int]:
        """Returns the grey levels added to the error of a path, and its length in frames.

        A path to a generated frame gets a handicap, and the length of the shortest path to a keyframe of the user:
        what was generated was carried from there.
        """
        length = abs(path.frame - path.keyframe_index)
        if path.keyframe_index not in self._generated:
            return 0.0, length
        return GENERATED_HANDICAP, max(1, min((abs(path.frame - index) for index in self._edited), default=length))

    def _add_part(self, frame: int, weight: float, part: AttachedPart | None) -> None:
        """Adds the attached part of a keyframe; None counts as one that is invisible."""
        self._part_weights[frame] += weight
        if self._parts is not None and part is not None:
            opaque = np.concatenate([part.colours, np.ones_like(part.colours[..., :1])], -1)
            self._parts[frame] += weight * part.visibility * part.alpha[..., None] * opaque

    def render(self) -> tuple[Frames, Weights]:
        """Returns the blended frames, uint8 ``[F, H, W, 3]``, and the largest trust of any path, ``[F, H, W]``."""
        frames = np.empty(self._colours.shape, np.uint8)
        for index, (colours, weight) in enumerate(zip(self._colours, self._total, strict=True)):
            frames[index] = np.rint(self._with_parts(index, colours / weight)).clip(0, 255)
        return frames, self._trust

    def _with_parts(self, index: int, ground: Pixels) -> Pixels:
        if self._parts is None:
            return ground
        colours, alpha = np.split(self._parts[index] / self._part_weights[index], [3], -1)
        return np.asarray(ground * (1 - alpha) + colours)
