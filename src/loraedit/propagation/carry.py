"""Carries keyframes through a clip along the source's own optical flow, as a guide for the model.

The source is known in every frame, so a flow path can be judged: it should explain the source. Every pixel blends the
paths to all keyframes. Paths that explain the source well and short paths count more, and a pixel that no path explains
gets little trust.

Where an edit changed little, the change is carried instead of the picture, because the source shows the pixels
themselves in every frame, as sharp and as lit as they are there. So the surroundings of an edited object inside a loose
mask stay as they were.

What an edited frame adds beside an object, over the background, has no motion of its own in the source. It is removed
before the rest is carried, and then laid over it where the object went (:mod:`loraedit.propagation.added_parts`).

A long clip is carried one segment at a time. A keyframe outside of the segment enters with the flow path that leads to
it (:attr:`~loraedit.propagation.keyframes.Keyframe.path`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.fields import photometric_error, sample_at
from loraedit.propagation.added_parts import AddedPart, AttachedPart, attach
from loraedit.propagation.blending import BlendGroup, Canvas, PathWeights, ScoredPath
from loraedit.propagation.foreground import ForegroundSeparator
from loraedit.propagation.keyframes import Keyframe
from loraedit.propagation.paths import ERROR_SIGMA_PX, PROPAGATION_FLOW, FlowPath, PreparedClip, walk_from
from loraedit.types import Frames, Image, Mask, OnStep, Pixels, Weights, no_step

__all__ = ["CarriedKeyframes", "carry_edits", "carry_keyframes"]

TRUST_LEVELS = 60.0
"""Grey levels of photometric error at which the trust in a pixel has fallen to 1 / e."""

SMALL_CHANGE_LEVELS = 24.0
"""Grey levels of change at which the weight of the source's own pixel has fallen to 1 / e."""

RETURN_STEP = 0.1
"""The most by which a part's visibility grows per frame after its object was lost, so that chance fits do not flash."""


@dataclass(frozen=True)
class CarriedKeyframes:
    """Keyframes carried to every frame of a clip.

    Attributes:
        frames: uint8 ``[F, H, W, 3]``; at the index of a keyframe, the keyframe itself.
        trust: float32 ``[F, H, W]`` in [0, 1]: how well the best flow path explains the source; 1 at a keyframe.
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
        mask: bool ``[F, H, W]``, a loose mask of the edited object; without it, no added parts are looked for.
        flow: the options of the flow estimator.
        on_step: called with (frames done, frames in all).

    Returns:
        One clip for each choice. Trust depends on the source alone: choices with the same indices get the same.
    """
    separator = None if mask is None else ForegroundSeparator(source, mask, flow)
    used = {name for choice in choices for name in choice}
    layers = {name: _split(keyframes[name], len(source), separator) for name in sorted(used)}
    groups = _group(source.shape[:3], layers, choices)
    clip, indices = PreparedClip.open(source, flow), sorted({layer.keyframe.index for layer in layers.values()})
    done, total = 0, sum(len(source) - (0 <= index < len(source)) for index in indices)
    for index in indices:
        here = {name: layer for name, layer in layers.items() if layer.keyframe.index == index}
        for walk in walk_from(clip, next(iter(here.values())).keyframe):
            for frame_done in _carry_along(walk, source, here, separator, groups):
                done += frame_done
                on_step(done, total)
    carried = {order: each for group in groups for order, each in _render(group, layers)}
    return [carried[order] for order in range(len(choices))]


@dataclass(frozen=True)
class _Layers:
    """A keyframe, split into what the source's flow carries and what is attached to an object.

    Attributes:
        keyframe: the keyframe.
        added: what it adds beside an object.
        ground: uint8 ``[H, W, 3]``, the image without the added part.
        change: float32 ``[H, W, 3]``, the ground minus the source.
        sameness: ``[H, W]`` in [0, 1], 1 where nothing changed.
    """

    keyframe: Keyframe
    added: AddedPart | None
    ground: Image
    change: Pixels
    sameness: Weights


def _split(keyframe: Keyframe, frame_count: int, separator: ForegroundSeparator | None) -> _Layers:
    added = keyframe.added
    if keyframe.is_source:
        added = None
    elif separator is not None and 0 <= keyframe.index < frame_count:
        added = separator.find_added_part(keyframe.index, keyframe.image)
    image, source = keyframe.image, keyframe.source
    ground = image if added is None else np.where(added.over_background[..., None], source, image)
    change: Pixels = ground.astype(np.float32) - source
    size = cv2.GaussianBlur(np.abs(change).max(-1), (0, 0), 1.0)
    return _Layers(keyframe, added, ground, change, np.exp(-np.square(size / SMALL_CHANGE_LEVELS)))


def _group(
    shape: tuple[int, ...], layers: Mapping[str, _Layers], choices: Sequence[Collection[str]]
) -> list[BlendGroup]:
    """Groups the choices whose keyframes have the same indices, and of these the same generated ones."""
    groups: dict[frozenset[tuple[int, bool]], BlendGroup] = {}
    for order, choice in enumerate(choices):
        assert choice, "expected at least one keyframe in each choice"
        chosen = {layers[name].keyframe.index: name for name in choice}
        keyframes = [layers[name].keyframe for name in choice]
        kind = frozenset((keyframe.index, keyframe.generated) for keyframe in keyframes)
        group = groups.setdefault(kind, BlendGroup(PathWeights(shape, keyframes), {}))
        group.results[order] = Canvas(shape, any(layers[name].added for name in choice)), chosen
    return list(groups.values())


def _carry_along(
    walk: Iterable[FlowPath],
    source: Frames,
    layers: Mapping[str, _Layers],
    separator: ForegroundSeparator | None,
    groups: Iterable[BlendGroup],
) -> Iterator[int]:
    """Carries the keyframes of one index along a walk; yields the number of frames finished after each path.

    The visibility of an added part depends on that in the frame before, so a walk must not be reordered.
    """
    keyframe = next(iter(layers.values())).keyframe
    visibility = dict.fromkeys(layers, 1.0)
    for path in walk:
        scored = _score(source, keyframe, path)
        warped = {name: _warp(layer, source[path.frame], scored) for name, layer in layers.items()}
        attached: dict[str, AttachedPart] = {}
        for name, layer in layers.items():
            if layer.added is not None and not path.direct:
                foreground = None if separator is None else separator.foreground(path.frame)
                part = attach(layer.added, layer.keyframe.image, foreground, path.positions)
                if part is not None:
                    attached[name] = part.faded(visibility[name] + RETURN_STEP)
                    visibility[name] = attached[name].visibility
        for group in groups:
            group.add(scored, warped, attached)
        yield int(path.direct)


def _score(source: Frames, keyframe: Keyframe, path: FlowPath) -> ScoredPath:
    error = photometric_error(source[path.frame], sample_at(keyframe.source, path.positions), ERROR_SIGMA_PX)
    trust = np.exp(-np.square(error / TRUST_LEVELS))
    return ScoredPath(keyframe.index, path.frame, path.positions, error, trust, path.direct)


def _warp(layers: _Layers, frame: Image, path: ScoredPath) -> Pixels:
    """Warps the ground along a path, float32 ``[H, W, 3]``; where little changed, adds the change to ``frame``."""
    ground = sample_at(layers.ground, path.positions)
    if layers.keyframe.is_source:
        return ground
    sameness = (path.trust * sample_at(layers.sameness, path.positions))[..., None]
    return np.asarray(ground + sameness * (frame + sample_at(layers.change, path.positions) - ground))


def _render(group: BlendGroup, layers: Mapping[str, _Layers]) -> Iterator[tuple[int, CarriedKeyframes]]:
    """Yields the results of a group with their order among the choices; keyframes replace what was carried there."""
    for order, (canvas, names) in group.results.items():
        frames, trust = canvas.render(group.weights.total), group.weights.trust.copy()
        for index, name in names.items():
            if 0 <= index < len(frames):
                frames[index], trust[index] = layers[name].keyframe.image, 1.0
        yield order, CarriedKeyframes(frames, trust)
