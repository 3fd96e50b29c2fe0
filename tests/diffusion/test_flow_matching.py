"""Worked examples of the objective."""

from __future__ import annotations

import torch

from loraedit.diffusion.flow_matching import add_noise, flow_matching_loss, velocity_target

DATA, NOISE = torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 4.0]])


def test_noising_runs_from_data_to_noise() -> None:
    assert torch.equal(add_noise(DATA, NOISE, 0.0), DATA)
    assert torch.equal(add_noise(DATA, NOISE, 1.0), NOISE)
    assert torch.allclose(add_noise(DATA, NOISE, 0.25), torch.tensor([[1.5, -0.5]]))


def test_following_the_velocity_back_gives_the_data() -> None:
    time = 0.7
    assert torch.allclose(add_noise(DATA, NOISE, time) - time * velocity_target(DATA, NOISE), DATA)


def test_the_loss_is_the_mean_square_over_everything() -> None:
    assert flow_matching_loss(velocity_target(DATA, NOISE), DATA, NOISE) == 0
    assert flow_matching_loss(torch.zeros(1, 2), DATA, NOISE) == (2**2 + 6**2) / 2


def test_weights_shift_the_loss_to_where_they_are_high() -> None:
    zero, weight = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]])
    assert flow_matching_loss(zero, DATA, NOISE, weight) == (3 * 2**2 + 6**2) / 4
