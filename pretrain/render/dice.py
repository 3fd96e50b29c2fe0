"""Random numbers of one batch, all drawn from a few integers.

Decisions that shape the work (which kind, which rows) are drawn on the host, so that a GPU never waits for an answer.
All other numbers are drawn on the device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Dice"]


class Dice:
    """Draws everything random of one batch.

    Args:
        device: where tensors are returned.
        key: integers such as (seed, step); equal keys give equal numbers on the same device.
    """

    def __init__(self, device: torch.device, *key: int) -> None:
        self.device = device
        self._host = torch.Generator().manual_seed(_digest("host", key))
        self.generator = torch.Generator(device).manual_seed(_digest("device", key))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Returns float32 numbers in [low, high) on the device."""
        return torch.empty(shape, device=self.device).uniform_(low, high, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        """Returns standard normal numbers on the device."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def angle(self, *shape: int) -> Tensor:
        """Returns angles in [0, 2 pi)."""
        return self.uniform(0, 2 * math.pi, *shape)

    def sign(self, *shape: int) -> Tensor:
        """Returns -1 or 1."""
        return (self.uniform(0, 1, *shape) < 0.5).float() * 2 - 1

    def some(self, probability: float, *shape: int) -> Tensor:
        """Returns 1.0 with the given probability, else 0.0."""
        return (self.uniform(0, 1, *shape) < probability).float()

    def number(self, low: float, high: float) -> float:
        """Returns one number in [low, high) on the host."""
        return low + (high - low) * float(torch.rand((), generator=self._host))

    def index(self, count: int) -> int:
        """Returns one integer in [0, count) on the host."""
        return int(torch.randint(count, (), generator=self._host))

    def pick(self, weights: Sequence[float], count: int) -> Tensor:
        """Returns indices into ``weights`` on the host, int64 ``[count]``."""
        return torch.multinomial(torch.tensor(weights), count, replacement=True, generator=self._host)

    def indices(self, limit: int, count: int) -> Tensor:
        """Returns integers in [0, limit) on the host, int64 ``[count]``."""
        return torch.randint(limit, (count,), generator=self._host)

    def colours(self, *shape: int) -> Tensor:
        """Returns colours on the host, float32 ``[*shape, 3]`` in [0, 1]: lightness first, then as vivid as fits."""
        light = torch.rand((*shape, 1), generator=self._host) * 0.84 + 0.08
        vivid = torch.rand((*shape, 1), generator=self._host).sqrt() * torch.minimum(light, 1 - light)
        hue = torch.rand((*shape, 1), generator=self._host)
        return (light + vivid * torch.cos(2 * math.pi * (hue + torch.tensor([0.0, 1 / 3, 2 / 3])))).clamp(0, 1)


def _digest(name: str, key: tuple[int, ...]) -> int:
    """Mixes a key into 63 bits."""
    return int.from_bytes(hashlib.blake2b(repr((name, key)).encode(), digest_size=8).digest(), "big") >> 1
