"""Blends keyframes that are warped along several flow paths, with numpy: the reference of what a device computes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loraedit.optical_flow.fields import Field, photometric_error, sample_at
from loraedit.propagation.added_parts import PlacedPart
from loraedit.propagation.choices import (
    ERROR_LEVELS,
    EXPLAINED_LEVELS,
    LEAST_WEIGHT,
    NO_WEIGHT,
    TRUST_RAMP,
    Blend,
    Choice,
    FrameLayers,
)
from loraedit.propagation.layers import KeyframeLayers
from loraedit.propagation.paths import ERROR_SIGMA_PX, FlowPath
from loraedit.types import Image, Pixels, Size, Weights

__all__ = ["NumpyBlender"]


@dataclass(frozen=True)
class _Scored:
    """A flow path with how well it explains the source.

    Attributes:
        positions: where each pixel of the frame lies in the keyframe, ``[H, W, 2]``.
        error: photometric error along the path, ``[H, W]`` in grey levels.
        trust: ``[H, W]`` in [0, 1], from the error.
    """

    positions: Field
    error: Weights
    trust: Weights


@dataclass(frozen=True)
class _Warped:
    """A keyframe warped along a path.

    Attributes:
        colours: float32 ``[H, W, 3]``.
        soundness: ``[H, W]`` in [0, 1], how far the source's flow says where the edit's pixels go.
    """

    colours: Pixels
    soundness: Weights


class NumpyBlender:
    """Blends on the CPU; see :class:`loraedit.propagation.choices.Blender`.

    Args:
        layers: the keyframes by name.
        choices: for each result, the names of its keyframes.
    """

    def __init__(self, layers: Mapping[str, KeyframeLayers], choices: Sequence[Collection[str]]) -> None:
        self._layers, self._choices = layers, [Choice(layers, names) for names in choices]

    def blend(self, frame: FrameLayers) -> list[Blend]:
        """Returns one blended frame for each choice."""
        canvases = [_Canvas(choice, frame.source.shape[:2]) for choice in self._choices]
        for index, path in frame.paths:
            here = {name: layers for name, layers in self._layers.items() if layers.keyframe.index == index}
            scored = _score(frame.source, next(iter(here.values())).keyframe.source, path)
            warped = {name: _warp(layers, frame.source, scored, frame.parts.get(name)) for name, layers in here.items()}
            for canvas in canvases:
                canvas.add(frame, index, path, scored, warped)
        return [canvas.render() for canvas in canvases]


def _score(frame: Image, keyframe: Image, path: FlowPath) -> _Scored:
    positions = path.positions(Size(*frame.shape[:2]))
    error = photometric_error(frame, sample_at(keyframe, positions), ERROR_SIGMA_PX)
    return _Scored(positions, error, np.interp(error, TRUST_RAMP, (1, 0)).astype(np.float32))


def _warp(layers: KeyframeLayers, frame: Image, path: _Scored, part: PlacedPart | None) -> _Warped:
    """Warps the ground along a path; where little changed, adds the change to ``frame``."""
    ground = sample_at(layers.ground, path.positions)
    if layers.keyframe.is_source:
        return _Warped(ground, np.ones_like(path.trust))
    explained = np.exp(-np.square(path.error / EXPLAINED_LEVELS))
    sameness = (explained * sample_at(layers.sameness, path.positions))[..., None]
    colours = np.asarray(ground + sameness * (frame + sample_at(layers.change, path.positions) - ground))
    soundness = sample_at(layers.soundness, path.positions)
    return _Warped(colours, soundness if part is None else soundness * (1 - part.doubt))


class _Canvas:
    """Sums up the warped keyframes of one frame, and the added parts that are laid over them."""

    def __init__(self, choice: Choice, shape: tuple[int, ...]) -> None:
        self._choice = choice
        self._total = np.full((*shape, 1), NO_WEIGHT, np.float32)
        self._trust = np.zeros(shape, np.float32)
        self._colours = np.zeros((*shape, 3), np.float32)
        self._parts: Pixels | None = None
        self._part_weight = np.float32(NO_WEIGHT)

    def add(
        self, frame: FrameLayers, index: int, path: FlowPath, scored: _Scored, warped: Mapping[str, _Warped]
    ) -> None:
        """Adds the keyframe of an index along a path; without one, the path is ignored.

        Added parts are laid along chained paths only, so that they count once for each frame.
        """
        name = self._choice.name(index)
        if name is None:
            return
        layer = warped[name]
        handicap, length = self._choice.handicap(frame.index, index)
        explained = layer.soundness * np.exp(-(scored.error + np.float32(handicap)) / ERROR_LEVELS)
        weight = (explained[..., None] + np.float32(LEAST_WEIGHT)) / length
        self._total += weight
        self._colours += weight * layer.colours
        self._trust = np.maximum(self._trust, scored.trust * layer.soundness)
        if not path.direct:
            self._add_part(float(np.exp(-handicap / ERROR_LEVELS)) / length, frame.parts.get(name))

    def _add_part(self, weight: float, part: PlacedPart | None) -> None:
        """Adds the part of a keyframe; None counts as one that is invisible."""
        self._part_weight += np.float32(weight)
        if part is not None and part.visibility:
            opaque = np.concatenate([part.colours, np.ones_like(part.colours[..., :1])], -1)
            added = weight * part.visibility * part.alpha[..., None] * opaque
            self._parts = added if self._parts is None else self._parts + added

    def render(self) -> Blend:
        """Returns the blended frame and its trust."""
        colours: Pixels = self._colours / self._total
        if self._parts is not None:
            shown, alpha = np.split(self._parts / self._part_weight, [3], -1)
            colours = colours * (1 - alpha) + shown
        return np.rint(colours).clip(0, 255).astype(np.uint8), self._trust
