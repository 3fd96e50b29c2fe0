"""The meter counts every tensor that exists, whatever became of those before it."""

from __future__ import annotations

import torch
from torch import nn

from loraedit.planning.meter import Meter


def test_a_tensor_in_the_place_of_a_freed_weight_is_counted() -> None:
    module = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(50))
    with Meter(module) as meter:
        for layer in module:
            layer.weight.data = torch.ones(4, 8)  # frees the old weight, whose address may be used again
        moved = meter.live
    assert moved == 50 * 4 * 8 * 4
