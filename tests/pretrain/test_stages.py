"""Training of the embedded model, at a tiny size on the CPU."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, UMT5EncoderModel

from loraedit.families.card import read_card
from pretrain.__main__ import main
from pretrain.assemble import assemble, ship
from pretrain.checkpoints import join_pieces, write_pieces
from pretrain.clips import Source, VaeBatches, crops_round, grey_holes
from pretrain.config import PRESETS, Preset, changed
from pretrain.gate import run_gate
from pretrain.latents import Encoder, Pool, kept_frames, pack_kept
from pretrain.loop import Course, Stopped, run
from pretrain.optim import Ema
from pretrain.photos import load_photos, pack_photos
from pretrain.prior import edits, train_prior
from pretrain.render.dice import Dice
from pretrain.schedule import Budget, cosine_fall, linear_fall
from pretrain.transformer import Nano, caption_tokenizer, train_transformer
from pretrain.vae import train_vae
from pretrain.vae_model import build_vae, decode, encode

pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
CPU, TINY = torch.device("cpu"), PRESETS["tiny"]
SOURCE = Source(CPU, torch.full((1, 3, 256, 256), 90, dtype=torch.uint8))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder in which every stage but the prior is done."""
    folder = tmp_path_factory.mktemp("work")
    train_vae(TINY, SOURCE, folder, Budget(4), None)
    train_transformer(TINY, SOURCE, folder, Budget(2), None)
    assemble(TINY, folder, None)
    return folder


def same_files(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- schedules and the loop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fall", [linear_fall, cosine_fall])
def test_the_rate_warms_up_holds_and_falls(fall: Any) -> None:
    assert fall(0.0, 0, 10) == pytest.approx(0.1)
    assert fall(0.3, 50, 10) == 1
    assert fall(0.9, 50, 10) < fall(0.8, 50, 10) < 1
    assert fall(1.0, 50, 10) == pytest.approx(0.05)


def test_a_budget_counts_steps_or_seconds() -> None:
    steps, clock = Budget(10), Budget(10, seconds=60.0)
    assert steps.share(5, spent=1e9) == 0.5
    assert steps.over(10, 0) and not steps.over(9, 1e9)
    assert clock.share(5, spent=15.0) == 0.25
    assert clock.over(1, spent=50.0, reserve=10.0) and not clock.over(1_000_000, spent=10.0)
    assert clock.part(0.5) == Budget(5, 30.0)


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))


def course(folder: Path, budget: Budget, pause: float = 0.0) -> tuple[Line, Course]:
    model = Line()

    def loss(step: int, share: float) -> torch.Tensor:
        time.sleep(pause)
        return (model.weight - step - share).square().mean()

    optimizers = [torch.optim.AdamW(model.parameters(), 0.1)]
    return model, Course(
        "line", model, Ema(model, 0.9), optimizers, budget, lambda share, step: 0.1, loss,  # noqa: ARG005
        lambda: {"figure": 1.0}, folder / "state.safetensors", folder / "log.jsonl", every=3,
    )  # fmt: skip


def test_a_time_budget_ends_in_time_and_is_resumed(tmp_path: Path) -> None:
    began = time.monotonic()
    run(course(tmp_path, Budget(10, 1.0), pause=0.02)[1])
    assert time.monotonic() - began < 1.5
    rows = log_of(tmp_path / "log.jsonl")
    assert rows[0]["step"] == 0 and 5 < rows[-1]["step"] < 50 and len(rows) < 6
    began = time.monotonic()
    run(course(tmp_path, Budget(10, 1.0), pause=0.02)[1])
    assert time.monotonic() - began < 0.5
    assert len(log_of(tmp_path / "log.jsonl")) == len(rows)


def test_a_stopped_course_goes_on_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(course(tmp_path / "whole", Budget(7))[1])
    _, broken = course(tmp_path / "broken", Budget(7))
    with monkeypatch.context() as patch:
        patch.setattr("pretrain.loop._asked_to_stop", lambda: _now())
        with pytest.raises(Stopped):
            run(broken)
    run(course(tmp_path / "broken", Budget(7))[1])
    assert same_files(tmp_path / "whole/state.safetensors", tmp_path / "broken/state.safetensors")


class _now:
    """As if a signal had come at once."""

    def __enter__(self) -> list[int]:
        return [15]

    def __exit__(self, *_: object) -> None:
        pass


# ---- data --------------------------------------------------------------------------------------------------------


def test_vae_batches_are_clips_or_crops_in_range() -> None:
    batches, again = (VaeBatches(SOURCE, (1,), TINY.vae_plan, crops=0.5) for _ in range(2))
    made = [batches.batch(step) for step in range(6)]
    assert [batch.shape for batch in made[:2]] == [(2, 3, 5, 32, 32), (6, 3, 3, 16, 16)]
    assert all(batch.abs().max() <= 1 for batch in made)
    assert not torch.equal(made[0], made[2])
    assert torch.equal(again.batch(5), made[5])
    assert torch.equal(again.batch(2), made[2])


def test_crops_hold_the_object_and_holes_are_grey() -> None:
    pixels, visible = torch.ones(2, 3, 2, 20, 20), torch.zeros(2, 2, 20, 20)
    pixels[:, :, :, 4, 15], visible[:, :, 4, 15] = -1, 1
    assert (crops_round(Dice(CPU, 1), pixels, visible, 8).amin((1, 2, 3, 4)) == -1).all()
    holed = grey_holes(Dice(CPU, 3), torch.ones(40, 3, 4, 20, 20), 0.5)
    assert set(holed.unique().tolist()) == {0.0, 1.0}
    untouched = (holed == 1).all(dim=(1, 2, 3, 4)).float().mean()
    assert 0.2 < untouched < 0.8


def test_only_whole_frames_are_kept() -> None:
    kind = TINY.transformer_plan.small[0]
    kept = kept_frames(Dice(CPU, 1), kind, 200, 0.12)
    assert kept[:, 0].all() and not kept[:, 1:-1].any()
    assert 0.03 < kept[:, -1].float().mean() < 0.25
    mask = pack_kept(kept, 4, 6)
    assert mask.shape == (200, 2, 3, 4, 6)
    assert mask[:, :, 0].all()
    assert (mask == mask[..., :1, :1]).all()
    stills = kept_frames(Dice(CPU, 1), replace(kind, frames=1), 200, 0.12)
    assert 0.3 < stills.float().mean() < 0.7


def test_large_clips_come_in_after_their_share(tmp_path: Path) -> None:
    encoder = Encoder(SOURCE, build_vae(TINY.vae), caption_tokenizer(), TINY.transformer_plan)
    for budget in (Budget(2), Budget(2, 60.0)):
        pool = Pool(encoder, tmp_path if budget.seconds is None else None, budget)
        first, last = pool.batch(0, 0.0), pool.batch(2, 1.0)
        assert first["target"].shape[-1] == 8
        assert last["target"].shape[-1] in (8, 12)
        assert any(kind.width == 48 for _, kind in pool.shards)
    fresh = Pool(encoder, tmp_path, Budget(2))
    assert all(
        torch.equal(value, fresh.batch(2, 1.0)[name])
        for name, value in Pool(encoder, None, Budget(2)).batch(2, 1.0).items()
    )


def test_photographs_are_packed_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "noise.png"), np.random.default_rng(0).integers(0, 255, (200, 320, 3), dtype=np.uint8))
    monkeypatch.setattr("pretrain.photos.photo_folders", lambda: [folder])
    packed = pack_photos(tmp_path / "photos.jpg")
    assert packed.shape == (2, 3, 256, 256)
    assert torch.equal(packed, load_photos(tmp_path / "photos.jpg"))
    monkeypatch.setattr("pretrain.photos.photo_folders", list)
    assert load_photos(tmp_path / "none.jpg").shape == (0, 3, 256, 256)


def test_an_unknown_setting_is_refused() -> None:
    assert changed(TINY, ["transformer_plan.peak=0.5", "gate.cases=3"]).transformer_plan.peak == 0.5
    with pytest.raises(SystemExit, match="no such setting"):
        changed(TINY, ["transformer_plan.pique=0.5"])


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_every_preset_is_built_and_small_enough_to_ship(preset: Preset) -> None:
    with torch.device("meta"):
        models = build_vae(preset.vae), Nano(preset, 512)
    assert 2 * sum(value.numel() for model in models for value in model.parameters()) < 55_000_000
    assert sum(phase.share for phase in preset.vae_plan.phases) == pytest.approx(1)


# ---- stages ------------------------------------------------------------------------------------------------------


def test_the_quick_way_through_the_vae_is_the_stock_one() -> None:
    vae = build_vae(TINY.vae).eval()
    for parameter in vae.parameters():
        nn.init.normal_(parameter, std=0.1)
    pixels = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        torch.testing.assert_close(encode(vae, pixels).mean, latents, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(decode(vae, latents).clamp(-1, 1), vae.decode(latents).sample, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("stage", ["vae", "transformer"])
def test_a_stage_that_is_interrupted_ends_with_the_same_bytes(
    stage: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, name, steps = {
        "vae": (train_vae, "vae-whole.safetensors", 4),
        "transformer": (train_transformer, "transformer.safetensors", 2),
    }[stage]
    if stage == "transformer":
        (tmp_path / "vae").symlink_to(work / "vae")
    with monkeypatch.context() as patch:
        patch.setattr("pretrain.loop._asked_to_stop", lambda: _now())
        with pytest.raises(Stopped):
            train(TINY, SOURCE, tmp_path, Budget(steps), None)
    train(TINY, SOURCE, tmp_path, Budget(steps), None)
    assert same_files(work / name, tmp_path / name)
    assert [row["step"] for row in log_of(tmp_path / f"{stage}.jsonl")][:3] == [0, 1, 2]


def test_a_checkpoint_loads_into_the_classes_of_diffusers(work: Path, tmp_path: Path) -> None:
    folder = work / "checkpoint"
    assert AutoencoderKLWan.from_pretrained(folder / "vae").config.z_dim == 4
    assert WanTransformer3DModel.from_pretrained(folder / "transformer").config.num_layers == 1
    assert UMT5EncoderModel.from_pretrained(folder / "text_encoder").config.d_model == 16
    assert AutoTokenizer.from_pretrained(folder / "tokenizer")("a red ball").input_ids
    assert read_card(folder)
    pieces = write_pieces(folder, tmp_path / "out", [work / "vae.jsonl"])
    assert all(piece.stat().st_size < 16 * 2**20 for piece in pieces)
    join_pieces(tmp_path / "out", tmp_path / "back")
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "back/checkpoint" / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "back/logs/vae.jsonl").exists()


def test_training_goes_on_from_a_checkpoint(work: Path, tmp_path: Path) -> None:
    train_transformer(TINY, SOURCE, tmp_path, Budget(2), work / "checkpoint")
    before, after = (log_of(folder / "transformer.jsonl") for folder in (work, tmp_path))
    assert after[0]["held_out"] == pytest.approx(before[-1]["held_out"], abs=0.03)
    assemble(TINY, tmp_path, work / "checkpoint")
    ship(TINY, tmp_path, tmp_path / "shipped")
    assert read_card(tmp_path / "shipped")
    assert "velocity loss" in (tmp_path / "shipped/README.md").read_text()


def test_a_prior_is_trained_on_edits_with_a_known_answer(work: Path, tmp_path: Path) -> None:
    made = list(edits(SOURCE, tmp_path, TINY.prior))
    assert len(made) == 4
    edit = made[0]
    assert edit["source"].shape == edit["truth"].shape == edit["carried"].shape == (5, 32, 32, 3)
    assert torch.equal(edit["source"][~edit["mask"]], edit["truth"][~edit["mask"]])
    train_prior(work / "checkpoint", SOURCE, tmp_path, TINY.prior, Budget(2))
    assert read_card(work / "checkpoint").prior("transformer").is_file()


def test_the_gate_compares_three_methods(work: Path, tmp_path: Path) -> None:
    means = run_gate(work / "checkpoint", TINY.gate, tmp_path / "gate.jsonl", "cpu", lambda: False)
    assert set(means) == {"source", "none", "motion"}
    assert log_of(tmp_path / "gate.jsonl")[0]["case"] == "recolour-0"


def test_one_command_runs_all_stages_within_its_minutes(tmp_path: Path) -> None:
    main(
        [
            "--preset",
            "tiny",
            "--device",
            "cpu",
            "--work",
            str(tmp_path),
            "--minutes",
            "0.1",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert {path.stem for path in tmp_path.rglob("*.jsonl")} == {"vae", "transformer", "prior", "gate"}
    assert list((tmp_path / "out").glob("checkpoint.tar.*"))
    assert json.loads((tmp_path / "config.json").read_text())["name"] == "tiny"
