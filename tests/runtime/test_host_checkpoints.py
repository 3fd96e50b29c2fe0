"""Checkpoints in host memory take none of the device's, are kept once, and share their buffers between passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from loraedit.planning.meter import Meter
from loraedit.runtime.host_checkpoints import WORTH_BYTES, HostCheckpoints

CPU = torch.device("cpu")
ROWS = WORTH_BYTES // 4


def chain(checkpoints: HostCheckpoints, value: Tensor) -> Tensor:
    with checkpoints.keep():
        for _ in range(4):
            value = (value * value).sin()
    return value


def test_saved_tensors_leave_the_device_and_come_back() -> None:
    checkpoints, value = HostCheckpoints(CPU), torch.rand(ROWS, requires_grad=True)
    with Meter(nn.Module()) as meter:
        out = chain(checkpoints, value)
        assert meter.live == value.nbytes  # the result
    out.sum().backward()
    plain = value.detach().clone().requires_grad_()
    other = plain
    for _ in range(4):
        other = (other * other).sin()
    other.sum().backward()
    torch.testing.assert_close(value.grad, plain.grad, rtol=0, atol=0)


def test_a_tensor_that_is_saved_several_times_is_kept_once() -> None:
    checkpoints, value = HostCheckpoints(CPU), torch.rand(ROWS, requires_grad=True)
    with checkpoints.keep():
        middle = value * 2
        total = middle.sin() + middle.cos() + middle * middle
    total.sum().backward()
    assert checkpoints.pool.allocated == middle.nbytes


def test_buffers_serve_every_pass() -> None:
    checkpoints, allocated = HostCheckpoints(CPU), []
    for _ in range(3):
        chain(checkpoints, torch.rand(ROWS, requires_grad=True)).sum().backward()
        allocated.append(checkpoints.pool.allocated)
    assert allocated[0] == allocated[1] == allocated[2] > 0


@pytest.mark.parametrize("tensor", [nn.Parameter(torch.rand(ROWS)), torch.rand(ROWS // 2, requires_grad=True)])
def test_weights_and_small_tensors_stay(tensor: Tensor) -> None:
    checkpoints = HostCheckpoints(CPU)
    with checkpoints.keep():
        (tensor * tensor).sum().backward()
    assert checkpoints.pool.allocated == 0


def test_values_changed_in_place_are_kept_apart() -> None:
    middle, weight = torch.rand(ROWS), torch.ones(ROWS, requires_grad=True)
    before = middle.clone()
    with HostCheckpoints(CPU).keep():
        one = weight * middle
        middle.add_(1)
        two = weight * middle
    (one + two).sum().backward()
    torch.testing.assert_close(weight.grad, 2 * before + 1)


def test_a_tensor_and_its_transpose_are_kept_apart() -> None:
    checkpoints, side = HostCheckpoints(CPU), int(ROWS**0.5) + 1
    middle, weight = torch.rand(side, side), torch.ones(side, side, requires_grad=True)
    with checkpoints.keep():
        total = (weight * middle.mT).sum() + 2 * (weight * middle).sum()
    total.backward()
    torch.testing.assert_close(weight.grad, middle.mT + 2 * middle)
