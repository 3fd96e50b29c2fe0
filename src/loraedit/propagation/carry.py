"""Carries keyframes through a clip along the source's own optical flow, as a guide for the model.

The source is known in every frame, so a flow path can be judged: it should explain the source. Every pixel blends the
paths to all keyframes. Paths that explain the source well and short paths count more, and a pixel that no path explains
is not trusted.

Where an edit changed little, the change is carried instead of the picture, because the source shows the pixels
themselves in every frame, as sharp and as lit as they are there. So the surroundings of an edited object inside a loose
mask stay as they were.

What an edited frame adds beside an object, over the background, has no motion of its own in the source. It is removed
before the rest is carried, and then laid over it where the object went (:mod:`loraedit.propagation.added_parts`). Where
nobody knows the way of new pixels, they are not trusted: those beside an object that nothing explains, and background
where the source shows the object. A recolouring, a texture or a logo stays on its surface, so it is trusted.

A long clip is carried one segment at a time. A keyframe outside of the segment enters with the flow path that leads to
it (:attr:`~loraedit.propagation.keyframes.Keyframe.path`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.fields import photometric_error, sample_at
from loraedit.propagation.added_parts import AttachedPart, ShapeChange, attach
from loraedit.propagation.blending import Canvas, CarriedLayer, ScoredPath
from loraedit.propagation.foreground import ForegroundSeparator
from loraedit.propagation.keyframes import Keyframe
from loraedit.propagation.paths import ERROR_SIGMA_PX, PROPAGATION_FLOW, FlowPath, PreparedClip, walk_from
from loraedit.types import Frames, Image, Mask, OnStep, Pixels, Plane, Weights, no_step

__all__ = ["TRUSTED", "CarriedKeyframes", "carry_edits", "carry_keyframes"]

TRUST_RAMP = (26.0, 34.0)
"""Grey levels of photometric error: full trust up to the first, none from the second on. On the cases of
``benchmarks/propagation``, 63 % of the carried pixels with an error around 30 levels are wrong by more than 32 levels,
and all pixels above it together are farther from the truth (12.3 dB) than what even nano makes of noise there."""

TRUSTED = 0.5
"""The trust from which a pixel is shown to the model."""

EXPLAINED_LEVELS = 60.0
"""Grey levels of photometric error at which the weight of the source's own pixel has fallen to 1 / e."""

SMALL_CHANGE_LEVELS = 24.0
"""Grey levels of change at which the weight of the source's own pixel has fallen to 1 / e."""

RETURN_STEP = 0.1
"""The most by which a part's visibility grows per frame after its object was lost, so that chance fits do not flash."""


@dataclass(frozen=True)
class CarriedKeyframes:
    """Keyframes carried to every frame of a clip.

    Attributes:
        frames: uint8 ``[F, H, W, 3]``; at the index of a keyframe, the keyframe itself.
        trust: float32 ``[F, H, W]`` in [0, 1]: whether a flow path explains the source and says where the edit goes; 0
            or 1 but for a narrow ramp, and 1 at a keyframe.
    """

    frames: Frames
    trust: Weights


def carry_edits(
    source: Frames, edits: Mapping[int, Image], mask: Mask | None = None, flow: FlowOptions = PROPAGATION_FLOW
) -> CarriedKeyframes:
    """Carries edited frames of a clip to all of its frames; see :func:`carry_keyframes`.

    Args:
        source: uint8 ``[F, H, W, 3]``.
        edits: edited frames, uint8 ``[H, W, 3]`` by frame index; at least one.
        mask: bool ``[F, H, W]``, a loose mask of the edited object.
        flow: the options of the flow estimator.
    """
    keyframes = {str(index): Keyframe(index, image, source[index]) for index, image in edits.items()}
    return carry_keyframes(source, keyframes, [list(keyframes)], mask, flow)[0]


def carry_keyframes(
    source: Frames,
    keyframes: Mapping[str, Keyframe],
    choices: Sequence[Collection[str]],
    mask: Mask | None = None,
    flow: FlowOptions = PROPAGATION_FLOW,
    on_step: OnStep = no_step,
) -> list[CarriedKeyframes]:
    """Carries keyframes along the motion of the source, for several choices of keyframes at once.

    Each flow path is computed once, whatever the number of choices that use it. A choice gives the same result alone
    and beside others.

    Args:
        source: uint8 ``[F, H, W, 3]``.
        keyframes: keyframes by any name.
        choices: for each result, the names of its keyframes; at least one, and no two of the same frame.
        mask: bool ``[F, H, W]``, a loose mask of the edited object; without it, no change of its outline is looked for.
        flow: the options of the flow estimator.
        on_step: called with (frames done, frames in all).

    Returns:
        One clip for each choice.
    """
    separator = None if mask is None else ForegroundSeparator(source, mask, flow)
    used = {name for choice in choices for name in choice}
    layers = {name: _split(keyframes[name], len(source), separator) for name in sorted(used)}
    canvases = [_canvas(source.shape[:3], {name: layers[name] for name in choice}) for choice in choices]
    clip, indices = PreparedClip.open(source, flow), sorted({layer.keyframe.index for layer in layers.values()})
    done, total = 0, sum(len(source) - (0 <= index < len(source)) for index in indices)
    for index in indices:
        here = {name: layer for name, layer in layers.items() if layer.keyframe.index == index}
        for walk in walk_from(clip, next(iter(here.values())).keyframe):
            for frame_done in _carry_along(walk, source, here, separator, canvases):
                done += frame_done
                on_step(done, total)
    return [
        _render(canvas, [keyframes[name] for name in choice]) for canvas, choice in zip(canvases, choices, strict=True)
    ]


@dataclass(frozen=True)
class _Layers:
    """A keyframe, split into what the source's flow carries and what is attached to an object.

    Attributes:
        keyframe: the keyframe.
        shape: how it changes the outline of an object.
        ground: uint8 ``[H, W, 3]``, the image without what it adds beside the object.
        change: float32 ``[H, W, 3]``, the ground minus the source.
        sameness: ``[H, W]`` in [0, 1], 1 where nothing changed.
        soundness: ``[H, W]`` in [0, 1], 0 where the source's flow is wrong for the pixels of the edit.
    """

    keyframe: Keyframe
    shape: ShapeChange | None
    ground: Image
    change: Pixels
    sameness: Weights
    soundness: Weights


def _split(keyframe: Keyframe, frame_count: int, separator: ForegroundSeparator | None) -> _Layers:
    shape = keyframe.shape
    if keyframe.is_source:
        shape = None
    elif separator is not None and 0 <= keyframe.index < frame_count:
        shape = separator.find_shape_change(keyframe.index, keyframe.image)
    image, source = keyframe.image, keyframe.source
    added = shape.added if shape else None
    ground = image if added is None else np.where(added.over_background[..., None], source, image)
    change: Pixels = ground.astype(np.float32) - source
    size = cv2.GaussianBlur(np.abs(change).max(-1), (0, 0), 1.0)
    sameness = np.exp(-np.square(size / SMALL_CHANGE_LEVELS))
    return _Layers(keyframe, shape, ground, change, sameness, _soundness(shape, source.shape[:2]))


def _soundness(shape: ShapeChange | None, size: tuple[int, ...]) -> Weights:
    if shape is None:
        return np.ones(size, np.float32)
    wrong = shape.uncovered if shape.unknown is None else shape.uncovered | shape.unknown.region
    return np.float32(1) - wrong


def _canvas(shape: tuple[int, ...], layers: Mapping[str, _Layers]) -> Canvas:
    assert layers, "expected at least one keyframe in each choice"
    keyframes = {name: layer.keyframe for name, layer in layers.items()}
    return Canvas(shape, keyframes, any(layer.shape and layer.shape.added for layer in layers.values()))


def _carry_along(
    walk: Iterable[FlowPath],
    source: Frames,
    layers: Mapping[str, _Layers],
    separator: ForegroundSeparator | None,
    canvases: Iterable[Canvas],
) -> Iterator[int]:
    """Carries the keyframes of one index along a walk; yields the number of frames finished after each path.

    The visibility of an added part depends on that in the frame before, so a walk must not be reordered.
    """
    keyframe = next(iter(layers.values())).keyframe
    visibility = dict.fromkeys(layers, 1.0)
    parts: dict[str, AttachedPart | None] = dict.fromkeys(layers)
    for path in walk:
        scored = _score(source, keyframe, path)
        if not path.direct:  # the direct path of the frame comes next, with the same parts
            foreground = _foreground(separator, layers, path.frame)
            for name, layer in layers.items():
                parts[name] = part = _attach(layer, foreground, path, visibility[name] + RETURN_STEP)
                visibility[name] = part.visibility if part else visibility[name]
        carried = {name: _warp(layer, source[path.frame], scored, parts[name]) for name, layer in layers.items()}
        for canvas in canvases:
            canvas.add(scored, carried)
        yield int(path.direct)


def _score(source: Frames, keyframe: Keyframe, path: FlowPath) -> ScoredPath:
    error = photometric_error(source[path.frame], sample_at(keyframe.source, path.positions), ERROR_SIGMA_PX)
    trust = np.interp(error, TRUST_RAMP, (1, 0)).astype(np.float32)
    return ScoredPath(keyframe.index, path.frame, path.positions, error, trust, path.direct)


def _foreground(separator: ForegroundSeparator | None, layers: Mapping[str, _Layers], frame: int) -> Plane | None:
    """Returns the object in a frame if a keyframe adds something to it."""
    adds = any(layer.shape and (layer.shape.added or layer.shape.unknown) for layer in layers.values())
    return separator.foreground(frame) if separator and adds else None


def _attach(layers: _Layers, foreground: Plane | None, path: FlowPath, max_visibility: float) -> AttachedPart | None:
    """Attaches what a keyframe adds to its object in another frame; pixels of an unknown way are invisible there."""
    shape = layers.shape
    beside = shape and (shape.added or shape.unknown)
    part = attach(beside, layers.keyframe.image, foreground, path.positions) if beside else None
    if shape is None or part is None:
        return None
    return replace(part, visibility=min(part.visibility, max_visibility) if shape.added else 0.0)


def _warp(layers: _Layers, frame: Image, path: ScoredPath, part: AttachedPart | None) -> CarriedLayer:
    """Warps the ground along a path; where little changed, adds the change to ``frame``."""
    ground = sample_at(layers.ground, path.positions)
    if layers.keyframe.is_source:
        return CarriedLayer(ground, np.ones_like(path.trust), None)
    explained = np.exp(-np.square(path.error / EXPLAINED_LEVELS))
    sameness = (explained * sample_at(layers.sameness, path.positions))[..., None]
    colours = np.asarray(ground + sameness * (frame + sample_at(layers.change, path.positions) - ground))
    soundness = sample_at(layers.soundness, path.positions)
    return CarriedLayer(colours, soundness if part is None else soundness * (1 - part.doubt), part)


def _render(canvas: Canvas, keyframes: Iterable[Keyframe]) -> CarriedKeyframes:
    """Renders a result; keyframes replace what was carried there."""
    frames, trust = canvas.render()
    for keyframe in keyframes:
        if 0 <= keyframe.index < len(frames):
            frames[keyframe.index], trust[keyframe.index] = keyframe.image, 1.0
    return CarriedKeyframes(frames, trust)
