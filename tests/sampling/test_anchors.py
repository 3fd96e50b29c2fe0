"""Claims about where a sampling starts: what is shown is held above the strength, all else is made of noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor
from toy_family import CHANNELS, TOY, ToyFamily, save_toy

from loraedit.diffusion.flow_matching import add_noise
from loraedit.diffusion.samples import Guide, motion_sample
from loraedit.families.base import Encoded
from loraedit.families.model_card import ModelCard
from loraedit.masks.packing import pack_shares
from loraedit.sampling.sampler import initial_noise, sample
from loraedit.sampling.schedule import make_schedule
from loraedit.settings import SamplingSettings

CPU = torch.device("cpu")
LATENT = (3, 4, 4)


class Recorder(ToyFamily):
    """Remembers the latents before each step. Its velocity depends on the latents alone, as in a token model."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__(card)
        self.seen: list[Tensor] = []

    def load_transformer(self, *_: object) -> torch.nn.Module:
        return torch.nn.Linear(1, 1)

    def velocity(self, transformer: object, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:  # noqa: ARG002
        self.seen.append(latents[0].clone())
        return latents.mean((2, 3, 4), keepdim=True) - 0.5 * latents.roll(1, -1)


class Multistep(Recorder):
    """Samples with the scheduler of the published Wan checkpoints, which looks back at earlier steps."""

    def scheduler(self, sampling: SamplingSettings, steps: int, *_: object) -> UniPCMultistepScheduler:  # noqa: ARG002
        scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
        scheduler.set_timesteps(steps)
        return scheduler


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return TOY.read_card(save_toy(tmp_path_factory.mktemp("toy")), {}, {})


def condition_of(content: Tensor, keep: Tensor) -> Encoded:
    return Encoded(torch.cat([keep.float(), content]), torch.zeros(1, 8))


def cells() -> Tensor:
    """Returns the cells that show something: the left half."""
    shown = torch.zeros((1, *LATENT), dtype=torch.bool)
    shown[..., :2] = True
    return shown


def content(seed: int = 1) -> Tensor:
    return torch.randn((CHANNELS, *LATENT), generator=torch.Generator().manual_seed(seed))


def run(family: Recorder, data: Tensor, folder: Path, **settings: float) -> Tensor:
    sampling = SamplingSettings(**{"sampling_steps": 8, "guidance": 1.0, **settings})
    condition = condition_of(data, torch.zeros((1, *LATENT)))
    return sample(family, condition, None, sampling, {}, CPU, folder, shown=cells())


@pytest.mark.parametrize("kind", [Recorder, Multistep])
def test_shown_cells_are_held_down_to_the_strength_and_free_below_it(
    card: ModelCard, tmp_path: Path, kind: type[Recorder]
) -> None:
    family, data = kind(card), content()
    run(family, data, tmp_path / "steps", strength=0.7)
    levels = make_schedule(family, SamplingSettings(sampling_steps=8, guidance=1.0), (), CPU).levels
    start, shown = initial_noise(tuple(data.shape), 0), cells().expand_as(data)
    first_free = next(index for index, level in enumerate(levels) if level <= 0.7)
    assert 0 < first_free < 7
    for level, latents in zip(levels[: first_free + 1], family.seen, strict=False):
        assert torch.allclose(latents[shown], add_noise(data, start, level)[shown], atol=1e-4)
    after = family.seen[first_free + 2]
    assert not torch.allclose(after[shown], add_noise(data, start, levels[first_free + 2])[shown], atol=0.05)


@pytest.mark.parametrize("kind", [Recorder, Multistep])
def test_cells_that_show_nothing_do_not_depend_on_the_fill(
    card: ModelCard, tmp_path: Path, kind: type[Recorder]
) -> None:
    """The grey of the condition is no content: another fill gives the same latents, bit for bit."""
    data = content()
    refilled = torch.where(cells(), data, torch.full_like(data, 7.0))
    one, other = (
        run(kind(card), each, tmp_path / str(index), strength=0.7) for index, each in enumerate((data, refilled))
    )
    assert torch.equal(one, other)


def test_at_full_strength_nothing_is_held(card: ModelCard, tmp_path: Path) -> None:
    one, other = (run(Recorder(card), content(seed), tmp_path / str(seed), strength=1.0) for seed in (1, 2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_last_step_is_always_the_models_own(card: ModelCard, tmp_path: Path, steps: int) -> None:
    data = content()
    made = run(Recorder(card), data, tmp_path / "steps", strength=0.01, sampling_steps=steps)
    assert not torch.allclose(made, data, atol=0.05)


@pytest.mark.parametrize("kind", [Recorder, Multistep])
@pytest.mark.parametrize("done", [1, 5])
def test_an_interrupted_sampling_below_full_strength_ends_with_the_same_bytes(
    card: ModelCard, tmp_path: Path, kind: type[Recorder], done: int
) -> None:
    whole = run(kind(card), content(), tmp_path / "whole", strength=0.7)
    for path in sorted((tmp_path / "whole").iterdir())[done:]:
        path.unlink()
    resumed = kind(card)
    assert torch.equal(run(resumed, content(), tmp_path / "whole", strength=0.7), whole)
    assert len(resumed.seen) == 8 - done


def test_kept_cells_end_as_the_condition_in_a_model_that_predicts_nothing_there(
    card: ModelCard, tmp_path: Path
) -> None:
    family, data = Recorder(card.model_copy(update={"mask": "tokens"})), content()
    sampling = SamplingSettings(sampling_steps=4, guidance=1.0)
    made = sample(family, condition_of(data, cells()), None, sampling, {}, CPU, tmp_path / "steps")
    shown = cells().expand_as(data)
    assert torch.allclose(made[shown], data[shown], atol=1e-5)
    assert not torch.allclose(made[~shown], data[~shown], atol=0.05)


def test_a_cell_counts_as_shown_if_most_of_its_pixels_show_something(card: ModelCard) -> None:
    side, everything = card.spatial, np.ones((2, 2 * card.spatial, 2 * card.spatial), bool)
    trusted = np.zeros_like(everything)
    trusted[:, :side, :side] = True
    trusted[:, :side, side : side + side // 2] = True  # half of the second cell
    source = np.zeros((*everything.shape, 3), np.float32)
    given = motion_sample(source, everything, "", Guide(source, trusted))
    found = ToyFamily(card).shown_cells(given)
    assert found.shape == (1, 2, 2, 2)
    assert found[0, 0].all(), "the first frame is kept"
    assert found[0, 1].tolist() == [[True, False], [False, False]]


def test_shares_of_cells_average_pixels_and_frames() -> None:
    pixels = np.zeros((5, 4, 4), bool)
    pixels[0, :2], pixels[1:3, :, :2] = True, True
    shares = pack_shares(pixels, 2, 2, 4)
    assert shares.shape == (1, 2, 2, 2)
    assert shares[0, 0].tolist() == [[1, 1], [0, 0]]
    assert shares[0, 1].tolist() == [[0.5, 0], [0.5, 0]]
