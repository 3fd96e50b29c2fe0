"""Procedural textures of many kinds, a batch at a time, and pieces of photographs.

A pattern is a weight in [0, 1] for every place; three colours make a picture from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.render.atlas import pyramid, sample
from pretrain.render.dice import Dice

__all__ = ["PATTERNS", "Textures", "colour_words", "draw_textures", "field", "plain_textures", "quarters", "recoloured"]

COLOURS = {
    "black": (0.06, 0.06, 0.06), "white": (0.95, 0.95, 0.95), "grey": (0.5, 0.5, 0.5), "red": (0.82, 0.12, 0.12),
    "orange": (0.95, 0.55, 0.12), "yellow": (0.93, 0.86, 0.2), "green": (0.2, 0.62, 0.25), "cyan": (0.25, 0.8, 0.82),
    "blue": (0.18, 0.3, 0.8), "purple": (0.5, 0.2, 0.66), "pink": (0.94, 0.55, 0.74), "brown": (0.46, 0.3, 0.16),
}  # fmt: skip
_NAMES, _VALUES = tuple(COLOURS), torch.tensor(list(COLOURS.values()))


@dataclass(frozen=True)
class Textures:
    """Pictures ``[n, 3, S, S]`` in [0, 1], and words for each of them, such as "red striped"."""

    pictures: Tensor
    words: tuple[str, ...]


def colour_words(colours: Tensor) -> list[str]:
    """Returns the names of the nearest of twelve colours, for colours ``[n, 3]`` on the host."""
    return [_NAMES[index] for index in torch.cdist(colours, _VALUES).argmin(1).tolist()]


def field(dice: Dice, count: int, size: int, rough: Tensor, first: int = 4) -> Tensor:
    """Returns band-limited noise ``[count, size, size]``, about standard normal.

    It starts as ``first`` x ``first`` numbers, is doubled again and again, and gets finer noise every time.

    Args:
        rough: how strong the next finer noise is, relative to the last, ``[count]``.
    """
    values, strength, total = dice.normal(count, 1, first, first), torch.ones_like(rough), torch.ones_like(rough)
    while values.shape[-1] < size:
        values = F.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
        strength = strength * rough
        total = total + strength.square()
        if values.shape[-1] < size or size <= 128:
            values = torch.addcmul(values, strength.view(-1, 1, 1, 1), dice.normal(*values.shape))
    return values[:, 0] * total.rsqrt()[:, None, None]


def _plane(dice: Dice, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Returns coordinates in [-1, 1], turned by an angle that is often a right one; each ``[count, size, size]``."""
    line = (torch.arange(size, device=dice.device) + 0.5) * (2 / size) - 1
    straight = dice.some(0.5, count)
    angle = torch.where(straight > 0, dice.some(0.5, count) * (math.pi / 2), dice.uniform(0, math.pi, count))
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    return cos * line + sin * line[:, None], cos * line[:, None] - sin * line


def _number(dice: Dice, low: float, high: float, count: int) -> Tensor:
    return dice.uniform(low, high, count, 1, 1)


def _hard(dice: Dice, wave: Tensor, count: int) -> Tensor:
    """Turns a wave in [-1, 1] into a weight with soft or sharp edges."""
    return torch.sigmoid(wave * _number(dice, 1.5, 12, count))


def _plain(dice: Dice, count: int, size: int) -> Tensor:
    return field(dice, count, size, dice.uniform(0.2, 0.5, count), 2) * 0.08 + 0.3


def _gradient(dice: Dice, count: int, size: int) -> Tensor:
    u, v = _plane(dice, count, size)
    return (0.5 + 0.5 * u + _number(dice, -0.2, 0.2, count) * v * v).clamp(0, 1)


def _striped(dice: Dice, count: int, size: int) -> Tensor:
    u, v = _plane(dice, count, size)
    bend = _number(dice, 0, 1.5, count) * torch.sin(v * _number(dice, 1, 4, count)) * dice.some(0.3, count, 1, 1)
    return _hard(dice, torch.sin(u * _number(dice, 5, 24, count) + bend + _number(dice, 0, 6.3, count)), count)


def _checked(dice: Dice, count: int, size: int) -> Tensor:
    u, v = _plane(dice, count, size)
    pace = _number(dice, 5, 16, count)
    return _hard(dice, 2 * torch.sin(u * pace) * torch.sin(v * pace * _number(dice, 0.6, 1.4, count)), count)


def _dotted(dice: Dice, count: int, size: int) -> Tensor:
    u, v = _plane(dice, count, size)
    pace = _number(dice, 6, 20, count)
    hills = torch.cos(u * pace) + torch.cos(v * pace + _number(dice, 0, 3, count))
    return _hard(dice, hills - _number(dice, 0.1, 1.1, count), count)


def _plaid(dice: Dice, count: int, size: int) -> Tensor:
    threads = []
    for line in _plane(dice, count, size):
        pace = _number(dice, 4, 11, count)
        wide = torch.sin(line * pace + _number(dice, 0, 6, count))
        thin = torch.sin(line * pace * 3 + _number(dice, 0, 6, count))
        threads.append(torch.tanh(4 * wide) + 0.5 * torch.tanh(6 * (thin - 0.6)))
    return (0.5 + 0.18 * (threads[0] + threads[1])).clamp(0, 1)


def _noisy(dice: Dice, count: int, size: int) -> Tensor:
    return torch.sigmoid(field(dice, count, size, dice.uniform(0.4, 0.95, count)) * _number(dice, 1, 3, count))


def _marbled(dice: Dice, count: int, size: int) -> Tensor:
    u, _ = _plane(dice, count, size)
    bent = u * _number(dice, 2, 8, count) + _number(dice, 1, 3, count) * field(
        dice, count, size, dice.uniform(0.4, 0.7, count), 2
    )
    return _hard(dice, torch.sin(bent), count)


def _wooden(dice: Dice, count: int, size: int) -> Tensor:
    u, v = _plane(dice, count, size)
    warp = field(dice, count, size, dice.uniform(0.3, 0.6, count), 2)
    height = torch.sqrt((u * _number(dice, 0.1, 0.5, count)).square() + (v + _number(dice, -1, 1, count)).square())
    ring = (height + 0.12 * warp) * _number(dice, 4, 12, count)
    return (ring - ring.floor()).square()


def _cellular(dice: Dice, count: int, size: int) -> Tensor:
    """Difference between the distances to the nearest and the second nearest of scattered points."""
    u, v = _plane(dice, count, size)
    nearest = torch.full_like(u, 9.0)
    second = nearest
    for _ in range(14):
        squared = (u - _number(dice, -1.3, 1.3, count)).square_().add_((v - _number(dice, -1.3, 1.3, count)).square_())
        second = torch.minimum(second, torch.maximum(nearest, squared))
        nearest = torch.minimum(nearest, squared)
    return ((second.sqrt_() - nearest.sqrt_()) * _number(dice, 2, 6, count)).clamp(0, 1)


PATTERNS: dict[str, tuple[float, Callable[[Dice, int, int], Tensor]]] = {
    "plain": (0.09, _plain), "gradient": (0.07, _gradient), "striped": (0.14, _striped), "checked": (0.11, _checked),
    "dotted": (0.11, _dotted), "plaid": (0.08, _plaid), "noisy": (0.16, _noisy), "marbled": (0.09, _marbled),
    "wooden": (0.08, _wooden), "cellular": (0.07, _cellular),
}  # fmt: skip
"""By the word for it: how often it is drawn, and its weight."""


def _coloured(weight: Tensor, colours: Tensor) -> Tensor:
    """Blends three colours ``[n, 3 (colour), 3]`` by a weight ``[n, S, S]``: the first at 0, the last at 1."""
    weight = weight[:, None]
    first, middle, last = (colours[:, i, :, None, None] for i in range(3))
    return torch.lerp(torch.lerp(first, middle, weight), torch.lerp(middle, last, weight), weight)


def draw_textures(dice: Dice, count: int, size: int, photos: Tensor, photo_share: float) -> Textures:
    """Draws textures: pieces of photographs with the given probability, else patterns, half of them on a rough surface.

    Args:
        size: side in pixels, a power of two.
        photos: uint8 ``[N, 3, P, P]``; may be empty.
    """
    pictures = torch.empty(count, 3, size, size, device=dice.device)
    if not count:
        return Textures(pictures, ())
    words = ["photo"] * count
    share = photo_share if len(photos) else 0.0
    kinds = dice.pick([*(rate * (1 - share) for rate, _ in PATTERNS.values()), share], count)
    colours = dice.colours(count, 3)
    names = colour_words(colours.mean(1))
    for index, (name, (_, pattern)) in enumerate(PATTERNS.items()):
        rows = (kinds == index).nonzero().flatten()
        if len(rows):
            mixed = _coloured(pattern(dice, len(rows), size).clamp(0, 1), colours[rows].to(dice.device))
            pictures[rows.to(dice.device)] = mixed
            for row in rows.tolist():
                words[row] = f"{names[row]} {name}"
    rows = (kinds == len(PATTERNS)).nonzero().flatten()
    if len(rows):
        pictures[rows.to(dice.device)] = _pieces(dice, len(rows), size, photos)
    rough = (dice.pick([0.5, 0.5], count) == 1) & (kinds < len(PATTERNS))
    rows = rough.nonzero().flatten().to(dice.device)
    if len(rows):
        grain = field(dice, len(rows), size, dice.uniform(0.6, 1.0, len(rows)), 8)
        pictures[rows] *= 1 + (dice.uniform(0.02, 0.14, len(rows), 1, 1) * grain)[:, None]
    return Textures(pictures.clamp_(0, 1), tuple(words))


def plain_textures(dice: Dice, count: int, size: int) -> Textures:
    """Draws nearly plain textures, as for skin."""
    tone = torch.tensor([0.95, 0.72, 0.58], device=dice.device) * dice.uniform(0.3, 1.0, count, 1)
    weight = field(dice, count, size, dice.uniform(0.2, 0.5, count), 2) * 0.06
    return Textures((tone[..., None, None] + weight[:, None]).clamp(0, 1), ("skin",) * count)


def _pieces(dice: Dice, count: int, size: int, photos: Tensor) -> Tensor:
    """Cuts pieces of photographs, some mirrored, half of them with channels swapped and gains changed."""
    chosen = photos[dice.indices(len(photos), count).to(photos.device)].float().div_(255)
    least = min(0.8, max(0.3, 0.9 * size / photos.shape[-1]))  # a smaller piece would be blurred
    share, line = dice.uniform(least, 1.0, count), (torch.arange(size, device=dice.device) + 0.5) / size
    left, top = ((1 - share) * dice.uniform(0, 1, count) for _ in range(2))
    u = left[:, None] + share[:, None] * torch.where(dice.some(0.5, count, 1) > 0, 1 - line, line)
    v = top[:, None] + share[:, None] * line
    u, v = u[:, None, None].expand(-1, 1, size, -1), v[:, None, :, None].expand(-1, 1, -1, size)
    pieces = sample(pyramid(chosen), u, v, (share * (chosen.shape[-1] / size)).log2()[:, None])[:, :, 0]
    swap = (torch.arange(3) + dice.indices(3, count)[:, None]).remainder(3).to(dice.device)
    changed = dice.some(0.5, count, 1, 1, 1)
    gain = dice.uniform(0.6, 1.3, count, 3, 1, 1)
    swapped = pieces.gather(1, swap[..., None, None].expand_as(pieces))
    return torch.where(changed > 0, swapped * gain, pieces)


def recoloured(dice: Dice, pictures: Tensor) -> Tensor:
    """Returns the same patterns in clearly other colours: the hue turned about the grey axis, light changed."""
    count = len(pictures)
    angle = dice.uniform(1.2, 2 * math.pi - 1.2, count)
    shift = 2 * math.pi / 3 * torch.arange(3, device=dice.device)
    wheel = 1 / 3 + 2 / 3 * torch.cos(angle[:, None, None] + shift[:, None] - shift)
    mean = pictures.mean((2, 3), keepdim=True)
    tint = (dice.colours(count).to(dice.device) - 0.5)[..., None, None] * 0.5
    lighter = torch.where(mean.mean(1, keepdim=True) < 0.5, 0.18, -0.18)
    turned = torch.einsum("ncd,ndhw->nchw", wheel, pictures)
    return (turned + tint + lighter).clamp(0, 1)


def quarters(parts: Sequence[Textures]) -> Tensor:
    """Puts four textures of half the size together into one, ``[n, 3, S, S]``."""
    first, second, third, fourth = (part.pictures for part in parts)
    return torch.cat([torch.cat([first, second], 3), torch.cat([third, fourth], 3)], 2)
