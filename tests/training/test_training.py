"""Claims about LoRA files and the training loop, on a tiny random checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from encoded import CPU, encode_motion
from scenes import Scene
from torch import nn

from loraedit.diffusion import samples as conditioning
from loraedit.errors import InputError, ModelError
from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.card import NANO, read_card
from loraedit.families.encoding import encode
from loraedit.lora.adapter import attach, attach_lora, lora_parameters, save_lora
from loraedit.masks.shaping import resize_mask
from loraedit.settings import LoraTargets, TrainSettings
from loraedit.training import Stage, train
from loraedit.types import Size
from loraedit.video.scaling import resize_frames, to_float

SETTINGS = TrainSettings(steps=6, rank=3, lr=1e-2, colour_variants=1, min_noise_level=0.0, train_seed=7)


def run(
    family: Family, encoded: Encoded, checkpoint: Path, stop_at: int | None = None, start: Path | None = None
) -> nn.Module:
    """Train, or be interrupted after ``stop_at`` steps with the state saved."""
    expert = family.experts[0]
    transformer = family.load_transformer(expert, CPU)

    def on_loss(done: int, _total: int, _loss: float) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    train(family, expert, transformer, Stage([encoded], [1], start), SETTINGS, checkpoint, on_loss)
    return transformer


def weights(transformer: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in lora_parameters(transformer)}


@pytest.fixture
def family(checkpoint: Path) -> Family:
    return open_family(read_card(checkpoint))


def test_a_fresh_lora_changes_nothing_and_follows_its_seed(family: Family, scene: Scene) -> None:
    encoded = encode_motion(family, scene)
    assert encoded.target is not None
    transformer = family.load_transformer(family.experts[0], CPU)
    time = torch.tensor([500.0])
    with torch.inference_mode():
        bare = family.velocity(transformer, encoded.target[None], time, batch([encoded]))
        state = torch.random.get_rng_state()
        attach(transformer, family.lora_targets("all"), rank=4, seed=1)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(family.velocity(transformer, encoded.target[None], time, batch([encoded])), bare)
    again = family.load_transformer(family.experts[0], CPU)
    attach(again, family.lora_targets("all"), rank=4, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(weights(again).values(), weights(transformer).values(), strict=True))


@pytest.mark.parametrize("which", ["all", "attention"])
def test_a_lora_is_on_every_linear_it_targets_and_nothing_else_trains(family: Family, which: LoraTargets) -> None:
    transformer = family.load_transformer(family.experts[0], CPU)
    attach(transformer, family.lora_targets(which), rank=2, seed=0)
    adapted = {name.rsplit(".", 1)[0] for name, _ in lora_parameters(transformer)}
    assert adapted == {f"blocks.{block}.{target}" for block in range(2) for target in family.lora_targets(which)}
    trainable = {id(p) for p in transformer.parameters() if p.requires_grad}
    assert trainable == {id(p) for _, p in lora_parameters(transformer)}


@pytest.mark.parametrize("name", ["plain", "wan21", "nano"])
def test_plain_diffusers_reads_the_exported_lora(
    checkpoints: dict[str, Path], name: str, scene: Scene, tmp_path: Path
) -> None:
    family = open_family(read_card(NANO if name == "nano" else checkpoints[name]))
    encoded = encode_motion(family, scene)
    assert encoded.target is not None
    transformer = run(family, encoded, tmp_path / "state.safetensors")
    save_lora(tmp_path / "lora.safetensors", family, transformer, {"made_by": "a test"})
    pipeline = WanImageToVideoPipeline.from_pretrained(
        family.card.folder, dtype=torch.float32, text_encoder=None, tokenizer=None, vae=None
    )
    bare, again = (family.load_transformer(family.experts[0], CPU) for _ in range(2))
    attach_lora(tmp_path / "lora.safetensors", family, again)
    pipeline.load_lora_weights(tmp_path / "lora.safetensors")
    time = torch.tensor([600.0])
    with torch.inference_mode():
        ours = family.velocity(again, encoded.target[None], time, batch([encoded]))
        theirs = family.velocity(pipeline.transformer, encoded.target[None], time, batch([encoded]))
        without = family.velocity(bare, encoded.target[None], time, batch([encoded]))
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - without).abs().max() > 1e-3


def test_a_saved_lora_loads_exactly(family: Family, scene: Scene, tmp_path: Path) -> None:
    transformer = run(family, encode_motion(family, scene), tmp_path / "state.safetensors")
    save_lora(tmp_path / "lora.safetensors", family, transformer, {})
    again = family.load_transformer(family.experts[0], CPU)
    attach_lora(tmp_path / "lora.safetensors", family, again)
    loaded = weights(again)
    assert all(torch.equal(value, loaded[name]) for name, value in weights(transformer).items())


def test_a_lora_of_another_model_or_no_lora_is_refused(family: Family, tmp_path: Path) -> None:
    nano = open_family(read_card(NANO))
    transformer = nano.load_transformer(nano.experts[0], CPU)
    attach(transformer, nano.lora_targets("all"), rank=2, seed=0)
    save_lora(tmp_path / "nano.safetensors", nano, transformer, {})
    ours = family.load_transformer(family.experts[0], CPU)
    with pytest.raises(ModelError, match="made for another model"):
        attach_lora(tmp_path / "nano.safetensors", family, ours)
    (tmp_path / "junk.safetensors").write_bytes(b"\x80\x04junk")
    with pytest.raises(ModelError, match="cannot be read"):
        attach_lora(tmp_path / "junk.safetensors", family, ours)


def test_training_lowers_the_loss_on_its_own_clip(family: Family, scene: Scene, tmp_path: Path) -> None:
    encoded = encode_motion(family, scene)
    expert = family.experts[0]
    transformer = family.load_transformer(expert, CPU)
    settings = SETTINGS.model_copy(update={"steps": 60})
    stage = Stage([encoded], [1])
    losses = train(family, expert, transformer, stage, settings, tmp_path / "state.safetensors", lambda *_: None)
    assert len(losses) == 60
    assert sum(losses[-15:]) < sum(losses[:15])


def test_an_interrupted_training_ends_with_the_same_bytes(
    family: Family, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraedit.training.state._worth_saving", lambda *_: True)  # after every step
    encoded = encode_motion(family, scene)
    whole = weights(run(family, encoded, tmp_path / "whole.safetensors"))
    for stop_at in (1, 3, 5):
        with pytest.raises(KeyboardInterrupt):
            run(family, encoded, tmp_path / "parts.safetensors", stop_at=stop_at)
    parts = weights(run(family, encoded, tmp_path / "parts.safetensors"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "parts.safetensors").read_bytes()


def test_a_damaged_checkpoint_is_set_aside_and_training_starts_anew(
    family: Family, scene: Scene, tmp_path: Path
) -> None:
    state = tmp_path / "state.safetensors"
    encoded = encode_motion(family, scene)
    run(family, encoded, state)
    whole = state.read_bytes()
    state.write_bytes(whole[:1000])
    run(family, encoded, state)
    assert state.read_bytes() == whole
    assert state.with_name("state.safetensors.damaged").exists()


def test_a_second_stage_goes_on_from_the_first(family: Family, scene: Scene, tmp_path: Path) -> None:
    encoded = encode_motion(family, scene)
    first = run(family, encoded, tmp_path / "first.safetensors")
    save_lora(tmp_path / "lora.safetensors", family, first, {})
    with pytest.raises(KeyboardInterrupt):
        run(family, encoded, tmp_path / "second.safetensors", stop_at=1, start=tmp_path / "lora.safetensors")
    second = run(family, encoded, tmp_path / "whole.safetensors", start=tmp_path / "lora.safetensors")
    moved = [(a - b).abs().max() for a, b in zip(weights(first).values(), weights(second).values(), strict=True)]
    assert 0 < max(moved) < 10 * SETTINGS.lr * SETTINGS.steps


def test_a_rate_that_blows_up_is_reported_not_saved(family: Family, scene: Scene, tmp_path: Path) -> None:
    encoded = encode_motion(family, scene)
    assert encoded.target is not None
    broken = Encoded(encoded.condition, encoded.text, encoded.image, encoded.target * float("nan"))
    with pytest.raises(InputError, match="Lower --lr"):
        run(family, broken, tmp_path / "state.safetensors")
    assert not (tmp_path / "state.safetensors").exists()


def test_a_batch_of_one_shape_gives_the_mean_of_its_samples(family: Family, scene: Scene) -> None:
    one = encode_motion(family, scene)
    other = Encoded(one.condition, one.text, one.image, -one.target if one.target is not None else None)
    transformer = family.load_transformer(family.experts[0], CPU)
    both = batch([one, other])
    noisy, time = (
        torch.randn(both.target.shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([500.0, 90.0]),
    )  # type: ignore[union-attr]
    with torch.inference_mode():
        together = family.velocity(transformer, noisy, time, both)
        alone = [
            family.velocity(transformer, noisy[i : i + 1], time[i : i + 1], batch([each]))
            for i, each in enumerate((one, other))
        ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_clips_and_single_frames_share_a_batch(family: Family, scene: Scene, tmp_path: Path) -> None:
    clip = encode_motion(family, scene)
    source = resize_frames(to_float(scene.source[:1]), Size(32, 48))
    mask = resize_mask(scene.mask[:1], Size(32, 48))
    still = encode(family, [conditioning.appearance_sample(source, -source, mask, "")], CPU)[0]
    expert = family.experts[0]
    transformer = family.load_transformer(expert, CPU)
    settings = SETTINGS.model_copy(update={"batch_size": 4, "steps": 3})
    stage = Stage([clip, still], [1, 1])
    losses = train(family, expert, transformer, stage, settings, tmp_path / "state.safetensors", lambda *_: None)
    assert len(losses) == 3 and all(np.isfinite(losses))


def test_what_is_kept_is_read_from_the_mask_channels(family: Family, scene: Scene) -> None:
    encoded = encode_motion(family, scene)
    keep = encoded.keep(family.card.latent_channels)
    assert keep.shape == (1, *encoded.condition.shape[1:])
    assert (keep[:, 0] == 1).all() and keep.min() < 1
