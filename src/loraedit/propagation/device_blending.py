"""Blends keyframes that are warped along several flow paths, on a device, with torch.

The same as :mod:`loraedit.propagation.blending`, which is the reference: values agree to rounding. Sums have a fixed
order, so equal inputs give equal bytes on the same machine. A frame is on the device at a time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

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

__all__ = ["DeviceBlender"]


@dataclass(frozen=True)
class _Planes:
    """All that is sampled of the keyframes of one index, on the device.

    Attributes:
        names: the names of these keyframes.
        planes: float32 ``[1, C, H, W]``: the source keyframe; then for each name, its ground, and unless it is the
            source's own, its change, sameness and soundness.
    """

    names: Mapping[str, KeyframeLayers]
    planes: Tensor


@dataclass(frozen=True)
class _Warped:
    """A keyframe warped along a path: colours ``[3, H, W]`` and soundness ``[1, H, W]``."""

    colours: Tensor
    soundness: Tensor


class DeviceBlender:
    """Blends on a device; see :class:`loraedit.propagation.choices.Blender`.

    Args:
        layers: the keyframes by name.
        choices: for each result, the names of its keyframes.
        device: the device, such as ``cuda:0``.
    """

    def __init__(self, layers: Mapping[str, KeyframeLayers], choices: Sequence[Collection[str]], device: str) -> None:
        self._choices, self._device = [Choice(layers, names) for names in choices], device
        self._planes = {index: self._planes_of(index, layers) for index in {x.keyframe.index for x in layers.values()}}
        height, width = next(iter(layers.values())).ground.shape[:2]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        self._grid = torch.stack([x, y]).float().to(device)
        self._blur = cv2.getGaussianKernel(_kernel_size(ERROR_SIGMA_PX), ERROR_SIGMA_PX, cv2.CV_32F).ravel().tolist()
        self._borders = [_border(side, len(self._blur) // 2).to(device) for side in (height, width)]

    @torch.inference_mode()
    def blend(self, frame: FrameLayers) -> list[Blend]:
        """Returns one blended frame for each choice."""
        source = self._on_device(frame.source)
        parts = {
            name: (self._on_device(part.colours), self._on_device(part.alpha), part.visibility)
            for name, part in frame.parts.items()
        }
        canvases = [_Canvas(choice, source) for choice in self._choices]
        for index, path in frame.paths:
            error, warped = self._warp(source, self._planes[index], path, parts)
            trust = ((TRUST_RAMP[1] - error) / (TRUST_RAMP[1] - TRUST_RAMP[0])).clamp(0, 1)
            for canvas in canvases:
                canvas.add(frame.index, index, path.direct, error, trust, warped, parts)
        return [canvas.render() for canvas in canvases]

    def _planes_of(self, index: int, layers: Mapping[str, KeyframeLayers]) -> _Planes:
        names = {name: each for name, each in layers.items() if each.keyframe.index == index}
        planes = [self._on_device(next(iter(names.values())).keyframe.source)]
        for each in names.values():
            planes += [self._on_device(array) for array in _sampled(each)]
        return _Planes(names, torch.cat(planes)[None])

    def _on_device(self, array: NDArray[np.generic]) -> Tensor:
        """Returns ``[H, W]`` or ``[H, W, C]`` as float32 ``[C, H, W]`` on the device."""
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
        return (tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)).float().contiguous()

    def _warp(
        self, source: Tensor, planes: _Planes, path: FlowPath, parts: Mapping[str, tuple[Tensor, Tensor, float]]
    ) -> tuple[Tensor, dict[str, _Warped]]:
        """Returns the photometric error of a path ``[1, H, W]``, and the keyframes warped along it."""
        sampled = self._sample(planes.planes, self._grid + self._resized(path))
        error = self._blurred((source - sampled[:3]).abs().mean(0, keepdim=True))
        explained = torch.exp(-torch.square(error / EXPLAINED_LEVELS))
        warped, taken = {}, 3
        for name, layers in planes.names.items():
            ground, taken = sampled[taken : taken + 3], taken + 3
            if layers.keyframe.is_source:
                warped[name] = _Warped(ground, torch.ones_like(error))
                continue
            change, sameness, soundness = torch.split(sampled[taken : taken + 5], [3, 1, 1])
            taken += 5
            colours = ground + explained * sameness * (source + change - ground)
            if name in parts:
                _, alpha, visibility = parts[name]
                soundness = soundness * (1 - alpha * (1 - visibility))
            warped[name] = _Warped(colours, soundness)
        return error, warped

    def _resized(self, path: FlowPath) -> Tensor:
        """Returns a flow in pixels of the frames, ``[2, H, W]``."""
        flow, (height, width) = self._on_device(path.flow), self._grid.shape[1:]
        if flow.shape[1:] == (height, width):
            return flow
        factors = flow.new_tensor([flow.shape[2] / width, flow.shape[1] / height])[:, None, None]
        return functional.interpolate(flow[None], (height, width), mode="bilinear")[0] / factors

    def _sample(self, planes: Tensor, positions: Tensor) -> Tensor:
        """Samples planes ``[1, C, H, W]`` at positions ``[2, H, W]``; beyond the edge they have the edge's values."""
        height, width = planes.shape[2:]
        last = positions.new_tensor([width - 1, height - 1])[:, None, None]
        within = torch.minimum(positions.clamp(min=0), last) / last.clamp(min=1) * 2 - 1
        grid = within.permute(1, 2, 0)[None]
        return functional.grid_sample(planes, grid, "bilinear", "border", align_corners=True)[0]

    def _blurred(self, plane: Tensor) -> Tensor:
        """Averages ``[1, H, W]`` by a Gaussian as ``cv2.GaussianBlur`` does, mirrored at the edges."""
        for axis, border in zip((1, 2), self._borders, strict=True):
            padded, length = plane.index_select(axis, border), plane.shape[axis]
            shifted = (padded.narrow(axis, at, length) * weight for at, weight in enumerate(self._blur))
            plane = _sum(shifted)
        return plane


class _Canvas:
    """Sums up the warped keyframes of one frame, and the added parts that are laid over them."""

    def __init__(self, choice: Choice, like: Tensor) -> None:
        self._choice = choice
        self._total = torch.full_like(like[:1], NO_WEIGHT)
        self._trust = torch.zeros_like(like[:1])
        self._colours = torch.zeros_like(like)
        self._parts: Tensor | None = None
        self._part_weight = NO_WEIGHT

    def add(
        self, frame: int, index: int, direct: bool, error: Tensor, trust: Tensor, warped: Mapping[str, _Warped],
        parts: Mapping[str, tuple[Tensor, Tensor, float]],
    ) -> None:  # fmt: skip
        """Adds the keyframe of an index along a path; without one, the path is ignored."""
        name = self._choice.name(index)
        if name is None:
            return
        layer = warped[name]
        handicap, length = self._choice.handicap(frame, index)
        explained = layer.soundness * torch.exp(-(error + handicap) / ERROR_LEVELS)
        weight = (explained + LEAST_WEIGHT) / length
        self._total += weight
        self._colours += weight * layer.colours
        self._trust = torch.maximum(self._trust, trust * layer.soundness)
        if not direct:
            share = math.exp(-handicap / ERROR_LEVELS) / length
            self._part_weight += share
            if name in parts:
                colours, alpha, visibility = parts[name]
                added = share * visibility * alpha * torch.cat([colours, torch.ones_like(alpha)])
                self._parts = added if self._parts is None else self._parts + added

    def render(self) -> Blend:
        """Returns the blended frame and its trust, in host memory."""
        colours = self._colours / self._total
        if self._parts is not None:
            shown, alpha = torch.split(self._parts / self._part_weight, [3, 1])
            colours = colours * (1 - alpha) + shown
        image = colours.round().clamp(0, 255).byte().permute(1, 2, 0).contiguous()
        return image.cpu().numpy(), self._trust[0].cpu().numpy()


def _sampled(layers: KeyframeLayers) -> tuple[NDArray[np.generic], ...]:
    """Returns the planes of a keyframe that are warped."""
    if layers.keyframe.is_source:
        return (layers.ground,)
    return layers.ground, layers.change, layers.sameness, layers.soundness


def _kernel_size(sigma_px: float) -> int:
    """Returns the size that ``cv2.GaussianBlur`` chooses for float32."""
    return round(sigma_px * 8 + 1) | 1


def _border(length: int, reach: int) -> Tensor:
    """Returns the indices of an axis with ``reach`` mirrored ones at both ends."""
    places = range(-reach, length + reach)
    return torch.tensor([cv2.borderInterpolate(place, length, cv2.BORDER_REFLECT_101) for place in places])


def _sum(tensors: Iterator[Tensor]) -> Tensor:
    total = next(tensors).clone()
    for tensor in tensors:
        total += tensor
    return total
