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

import numpy as np

from loraedit.optical_flow.base import FlowOptions
from loraedit.propagation.added_parts import AttachedPart, attach
from loraedit.propagation.blending import NumpyBlender
from loraedit.propagation.choices import Blender, FrameLayers
from loraedit.propagation.foreground import ForegroundSeparator
from loraedit.propagation.keyframes import Keyframe
from loraedit.propagation.layers import KeyframeLayers, split
from loraedit.propagation.paths import PROPAGATION_FLOW, FlowPath, FlowPaths, Walk, find_paths
from loraedit.types import Frames, Image, Mask, OnStep, Size, Weights, no_step

__all__ = ["TRUSTED", "CarriedKeyframes", "carry_edits", "carry_keyframes"]

TRUSTED = 0.5
"""The trust from which a pixel is shown to the model."""

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
    paths: FlowPaths | None = None,
) -> list[CarriedKeyframes]:
    """Carries keyframes along the motion of the source, for several choices of keyframes at once.

    Each flow path is computed once, whatever the number of choices that use it. A choice gives the same result alone
    and beside others.

    Args:
        source: uint8 ``[F, H, W, 3]``.
        keyframes: keyframes by any name.
        choices: for each result, the names of its keyframes; at least one, and no two of the same frame.
        mask: bool ``[F, H, W]``, a loose mask of the edited object; without it, no change of its outline is looked for.
        flow: the options of the flow estimator; keyframes are warped on its device.
        on_step: called with (frames done, frames in all).
        paths: the result of :func:`loraedit.propagation.paths.find_paths` for the same source and options and for at
            least these keyframes, if it is known.

    Returns:
        One clip for each choice.
    """
    separator = None if mask is None else ForegroundSeparator(source, mask, flow)
    used = {name for choice in choices for name in choice}
    done = 0
    if paths is None:
        done = sum(len(source) - (0 <= index < len(source)) for index in {keyframes[name].index for name in used})
        paths = find_paths(
            source, [keyframes[name] for name in used], flow, lambda now, total: on_step(now, total + len(source))
        )
    layers = {name: split(keyframes[name], len(source), separator) for name in sorted(used)}
    attached = {name: _attach_along(each, paths, separator) for name, each in layers.items() if each.beside}
    blender = _open_blender(layers, choices, flow.device)
    results = [_empty(source.shape[:3]) for _ in choices]
    by_frame = _by_frame(paths, {layer.keyframe.index for layer in layers.values()}, len(source))
    for index, frame in enumerate(source):
        placed = {name: part.place() for name, each in attached.items() if (part := each.get(index))}
        blends = blender.blend(FrameLayers(index, frame, tuple(by_frame[index]), placed))
        for result, (image, trust) in zip(results, blends, strict=True):
            result.frames[index], result.trust[index] = image, trust
        on_step(done + index + 1, done + len(source))
    for result, choice in zip(results, choices, strict=True):
        _put_back(result, [keyframes[name] for name in choice])
    return results


def _by_frame(paths: FlowPaths, keyframes: Collection[int], count: int) -> list[list[tuple[int, FlowPath]]]:
    """Returns the paths from each frame, each with the index of its keyframe, in the order of these indices."""
    found: list[list[tuple[int, FlowPath]]] = [[] for _ in range(count)]
    for index in sorted(keyframes):
        for path in (path for walk in paths[index] for path in walk):
            found[path.frame].append((index, path))
    return found


def _attach_along(
    layers: KeyframeLayers, paths: FlowPaths, separator: ForegroundSeparator | None
) -> dict[int, AttachedPart]:
    """Attaches what a keyframe adds to its object in all other frames; frames without the object are left out.

    The visibility of a part depends on that in the frame before, so a walk must not be reordered.
    """
    found = {}
    for walk in paths[layers.keyframe.index]:
        visibility = 1.0
        for frame, part in _attach_on(walk, layers, separator):
            visibility = min(part.visibility, visibility + RETURN_STEP) if layers.shows_part else 0.0
            found[frame] = replace(part, visibility=visibility)
    return found


def _attach_on(
    walk: Walk, layers: KeyframeLayers, separator: ForegroundSeparator | None
) -> Iterator[tuple[int, AttachedPart]]:
    """Yields the frames of a walk with the part, wherever the object is found, by the chained paths."""
    beside, image = layers.beside, layers.keyframe.image
    assert beside is not None
    for path in walk:
        if not path.direct:
            foreground = separator.foreground(path.frame) if separator else None
            part = attach(beside, image, foreground, path.positions(Size(*image.shape[:2])))
            if part is not None:
                yield path.frame, part


def _open_blender(
    layers: Mapping[str, KeyframeLayers], choices: Sequence[Collection[str]], device: str | None
) -> Blender:
    if device is None or device.startswith("cpu"):
        return NumpyBlender(layers, choices)
    from loraedit.propagation.device_blending import DeviceBlender

    return DeviceBlender(layers, choices, device)


def _empty(shape: tuple[int, ...]) -> CarriedKeyframes:
    return CarriedKeyframes(np.empty((*shape, 3), np.uint8), np.empty(shape, np.float32))


def _put_back(result: CarriedKeyframes, keyframes: Iterable[Keyframe]) -> None:
    """Replaces what was carried to the frame of each keyframe by the keyframe itself, in place."""
    for keyframe in keyframes:
        if 0 <= keyframe.index < len(result.frames):
            result.frames[keyframe.index], result.trust[keyframe.index] = keyframe.image, 1.0
