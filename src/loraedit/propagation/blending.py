"""Blending of keyframes that are warped along several flow paths: weights, trust, and the canvases that sum them up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from loraedit.optical_flow.fields import Field
from loraedit.propagation.added_parts import AttachedPart
from loraedit.propagation.keyframes import Keyframe
from loraedit.types import Frames, Pixels, Weights

__all__ = ["BlendGroup", "Canvas", "PathWeights", "ScoredPath"]

ERROR_LEVELS = 8.0
"""Grey levels of photometric error by which the weight of a path falls to 1 / e."""

GENERATED_HANDICAP = 3 * ERROR_LEVELS
"""Grey levels of error that are added to the paths to a generated frame, so that the user's keyframes win."""


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


class PathWeights:
    """Weighs flow paths, and sums the weights up by frame.

    Attributes:
        total: sum of all weights, ``[F, H, W, 1]``.
        trust: the largest trust of any path, ``[F, H, W]``.

    Args:
        shape: F, H, W.
        keyframes: those that the paths lead to.
    """

    def __init__(self, shape: tuple[int, ...], keyframes: Collection[Keyframe]) -> None:
        self._generated = {keyframe.index for keyframe in keyframes if keyframe.generated}
        self._edited = [keyframe.index for keyframe in keyframes if not keyframe.generated]
        self._indices = {keyframe.index for keyframe in keyframes}
        self.total = np.full((*shape, 1), 1e-9, np.float32)
        self.trust = np.zeros(shape, np.float32)

    def uses(self, keyframe_index: int) -> bool:
        """Returns whether there is a keyframe of this index."""
        return keyframe_index in self._indices

    def add(self, path: ScoredPath) -> tuple[Weights, float]:
        """Adds a path; returns the weight of its pixels, ``[H, W, 1]``, and of its keyframe in the frame as a whole.

        A path to a generated frame gets a handicap, and the length of the shortest path to a keyframe of the user:
        what was generated was carried from there.
        """
        handicap, length = 0.0, abs(path.frame - path.keyframe_index)
        if path.keyframe_index in self._generated:
            nearest_edit = min((abs(path.frame - index) for index in self._edited), default=length)
            handicap, length = GENERATED_HANDICAP, max(1, nearest_edit)
        weight = (np.exp(-(path.error + np.float32(handicap)) / ERROR_LEVELS)[..., None] + np.float32(1e-6)) / length
        self.total[path.frame] += weight
        self.trust[path.frame] = np.maximum(self.trust[path.frame], path.trust)
        return weight, float(np.exp(-handicap / ERROR_LEVELS)) / length


class Canvas:
    """Sums up the warped keyframes of one result, and the added parts that are laid over them.

    Args:
        shape: F, H, W.
        has_added_parts: whether any keyframe adds a part.
    """

    def __init__(self, shape: tuple[int, ...], has_added_parts: bool) -> None:
        self._colours = np.zeros((*shape, 3), np.float32)
        self._parts = np.zeros((*shape, 4), np.float32) if has_added_parts else None
        self._part_weights = np.full(shape[0], 1e-9, np.float32)

    def add(self, frame: int, weight: Weights, warped: Pixels) -> None:
        """Adds a warped keyframe ``[H, W, 3]`` with the weights of its pixels ``[H, W, 1]``."""
        self._colours[frame] += weight * warped

    def add_part(self, frame: int, weight: float, part: AttachedPart | None) -> None:
        """Adds the attached part of a keyframe; None counts as one that is invisible."""
        self._part_weights[frame] += weight
        if self._parts is not None and part is not None:
            opaque = np.concatenate([part.colours, np.ones_like(part.colours[..., :1])], -1)
            self._parts[frame] += weight * part.alpha[..., None] * opaque

    def render(self, total: Weights) -> Frames:
        """Returns the blended frames, uint8 ``[F, H, W, 3]``.

        Args:
            total: sum of the weights of all warped keyframes, ``[F, H, W, 1]``.
        """
        frames = np.empty(self._colours.shape, np.uint8)
        for index, (colours, weight) in enumerate(zip(self._colours, total, strict=True)):
            frames[index] = np.rint(self._with_parts(index, colours / weight)).clip(0, 255)
        return frames

    def _with_parts(self, index: int, ground: Pixels) -> Pixels:
        if self._parts is None:
            return ground
        colours, alpha = np.split(self._parts[index] / self._part_weights[index], [3], -1)
        return np.asarray(ground * (1 - alpha) + colours)


@dataclass(frozen=True)
class BlendGroup:
    """Results that have keyframes of the same frames, so that their paths have the same weights.

    Attributes:
        weights: of the paths.
        results: by order of the result among all, its canvas and the names of its keyframes by index.
    """

    weights: PathWeights
    results: dict[int, tuple[Canvas, dict[int, str]]]

    def add(self, path: ScoredPath, warped: Mapping[str, Pixels], attached: Mapping[str, AttachedPart]) -> None:
        """Adds keyframes along a path; a group without a keyframe of the path's index ignores it.

        Added parts are laid along chained paths only, so that they count once for each frame.

        Args:
            path: the path.
            warped: the warped keyframes of its index, ``[H, W, 3]`` by name.
            attached: the visible added parts of these keyframes, by name.
        """
        if not self.weights.uses(path.keyframe_index):
            return
        weight, frame_weight = self.weights.add(path)
        for canvas, names in self.results.values():
            name = names[path.keyframe_index]
            canvas.add(path.frame, weight, warped[name])
            if not path.direct:
                canvas.add_part(path.frame, frame_weight, attached.get(name))
