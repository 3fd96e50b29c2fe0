"""LoRAs of HunyuanVideo, HunyuanVideo-1.5 and LTX under the names of other programs, checked by a forward pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import HunyuanVideoImageToVideoPipeline
from diffusers.loaders import lora_conversion_utils as theirs
from parity import CPU, encode, masked_sample, noise
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loraedit.errors import ModelError
from loraedit.families import open_family
from loraedit.families.base import Family, batch
from loraedit.families.card import read_card
from loraedit.families.layer_names import diffusers_name, native_name
from loraedit.lora.adapter import stack
from loraedit.lora.export import convert
from loraedit.lora.header import read_header
from loraedit.lora.reading import read_lora

FIRST, LATER, LTX = "hunyuan, channels", "hunyuan 1.5", "ltx"
RANK, ALPHA = 3, 1.3
Keys = dict[str, Tensor]


def random_lora(family: Family, path: Path, layers: str = "") -> Path:
    """Writes a LoRA file with diffusers' names for all layers that an edit adapts, or those that match a pattern."""
    transformer, generator, tensors = transformer_of(family), torch.Generator().manual_seed(0), {}
    for name in family.lora_targets("all"):
        for full, module in transformer.named_modules():
            if full.endswith(name) and isinstance(module, nn.Linear) and re.search(layers, full):
                out, inner = module.weight.shape
                tensors[f"transformer.{full}.lora_A.weight"] = torch.randn((RANK, inner), generator=generator)
                tensors[f"transformer.{full}.lora_B.weight"] = 0.05 * torch.randn((out, RANK), generator=generator)
    save_file(tensors, path)
    return path


def transformer_of(family: Family) -> nn.Module:
    return family.load_transformer(family.experts[0], CPU)


def velocity_of(family: Family) -> Callable[[nn.Module], Tensor]:
    frames, side = 2 * family.card.frame_step + 1, 2 * family.card.multiple_px
    condition = encode(family, masked_sample(frames, side, side))

    def velocity(transformer: nn.Module) -> Tensor:
        with torch.inference_mode():
            return family.velocity(transformer, noise(family, condition), torch.tensor([500.0]), batch([condition]))

    return velocity


@pytest.mark.parametrize("name", [FIRST, LATER, LTX])
@pytest.mark.parametrize("form", ["comfyui", "musubi", "diffusers"])
def test_a_lora_acts_the_same_under_any_names(others: dict[str, Path], name: str, form: str, tmp_path: Path) -> None:
    family = open_family(read_card(others[name]))
    source, velocity = random_lora(family, tmp_path / "lora.safetensors"), velocity_of(family)
    if (name, form) == (LTX, "musubi"):
        with pytest.raises(ModelError, match="Use --format comfyui"):
            convert(source, tmp_path / "out.safetensors", form)
        return
    file = convert(source, tmp_path / "out.safetensors", form)
    ours, again = transformer_of(family), transformer_of(family)
    bare = velocity(ours)
    stack(ours, [(source, 1.0)])
    stack(again, [(file, 1.0)])
    assert (velocity(ours) - bare).abs().max() > 1e-2
    assert (velocity(ours) - velocity(again)).abs().max() < 1e-5
    there, back = read_lora(source).layers, read_lora(file).layers
    assert there.keys() == back.keys()
    for layer, matrices in there.items():  # to the bit, however they were put together
        assert torch.equal(matrices.down, back[layer].down) and torch.equal(matrices.up, back[layer].up)


def names_of(family: Family, form: str, folder: Path) -> set[str]:
    source = random_lora(family, folder / "lora.safetensors")
    keys = load_file(convert(source, folder / "out.safetensors", form))
    return {re.sub(r"blocks([._])\d+", r"blocks\1#", key) for key in keys if "down" in key or "lora_A" in key}


def test_what_is_exported_has_the_names_of_the_programs_it_is_for(others: dict[str, Path], tmp_path: Path) -> None:
    """ComfyUI fuses the layers of both models, musubi-tuner only those of the first."""
    sides = {f"{side}_{part}" for side in ("img", "txt") for part in ("attn_qkv", "attn_proj", "mlp.fc1", "mlp.fc2")}
    double, single = {f"double_blocks.#.{part}" for part in sides}, {f"single_blocks.#.linear{n}" for n in (1, 2)}
    first, later = (open_family(read_card(others[name])) for name in (FIRST, LATER))
    assert names_of(first, "comfyui", tmp_path) == {f"diffusion_model.{n}.lora_A.weight" for n in double | single}
    assert names_of(later, "comfyui", tmp_path) == {f"diffusion_model.{n}.lora_A.weight" for n in double}
    flat = {f"lora_unet_{n.replace('.', '_')}.lora_down.weight" for n in double | single}
    assert names_of(first, "musubi", tmp_path) == flat
    apart = {n.replace("qkv", letter) for n in double for letter in "qkv"}
    assert names_of(later, "musubi", tmp_path) == {f"lora_unet_{n.replace('.', '_')}.lora_down.weight" for n in apart}


def test_plain_diffusers_reads_what_comfyui_gets(others: dict[str, Path], tmp_path: Path) -> None:
    """Only double blocks are compared: diffusers splits single blocks only at the true model's width."""
    family = open_family(read_card(others[FIRST]))
    source = random_lora(family, tmp_path / "lora.safetensors", r"^transformer_blocks")
    velocity, ours = velocity_of(family), transformer_of(family)
    stack(ours, [(source, 1.0)])
    pipeline = HunyuanVideoImageToVideoPipeline.from_pretrained(
        family.card.folder, dtype=torch.float32, text_encoder=None, text_encoder_2=None, vae=None
    )
    pipeline.load_lora_weights(convert(source, tmp_path / "out.safetensors", "comfyui"))
    assert (velocity(ours) - velocity(pipeline.transformer)).abs().max() < 1e-5


def test_a_single_block_of_the_true_width_comes_apart_as_in_diffusers(tmp_path: Path) -> None:
    generator, width = torch.Generator().manual_seed(2), 3072
    tensors = {}
    for part, out in (("attn.to_q", width), ("attn.to_k", width), ("attn.to_v", width), ("proj_mlp", 4 * width)):
        key = f"transformer.single_transformer_blocks.7.{part}"
        tensors[f"{key}.lora_A.weight"] = torch.randn((1, width), generator=generator)
        tensors[f"{key}.lora_B.weight"] = torch.randn((out, 1), generator=generator)
    save_file(tensors, tmp_path / "lora.safetensors")
    native = load_file(convert(tmp_path / "lora.safetensors", tmp_path / "out.safetensors", "comfyui"))
    found = theirs._convert_hunyuan_video_lora_to_diffusers(dict(native))
    for key in (key for key in tensors if "lora_A" in key):
        up, down = (found[name][:8] if "lora_B" in name else found[name] for name in (key.replace("_A", "_B"), key))
        assert torch.allclose(up @ down, tensors[key.replace("_A", "_B")][:8] @ tensors[key])


KINDS: dict[str, Callable[[str], str]] = {
    "musubi": lambda layer: f"lora_unet_{layer.replace('.', '_')}",
    "diffusion-pipe": lambda layer: f"transformer.{layer}",
    "ComfyUI's own": lambda layer: f"diffusion_model.{comfyui_name(layer)}",
}


def comfyui_name(layer: str) -> str:
    for theirs_, own in {"attn_": "attn.", "fc1": "0", "fc2": "2", "mod.linear": "mod.lin"}.items():
        layer = layer.replace(theirs_, own)
    return layer


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_file_acts_as_its_formula_says(others: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """The fused weight becomes W + alpha / rank B A; its rows are those of queries, keys, values and the MLP."""
    family = open_family(read_card(others[FIRST]))
    velocity, ours, by_hand = velocity_of(family), transformer_of(family), transformer_of(family)
    double, single = "transformer_blocks.0.", "single_transformer_blocks.1."
    fused = {
        "double_blocks.0.img_attn_qkv": [f"{double}attn.to_{letter}" for letter in "qkv"],
        "double_blocks.0.txt_attn_qkv": [f"{double}attn.add_{letter}_proj" for letter in "qkv"],
        "double_blocks.0.txt_mlp.fc2": [f"{double}ff_context.net.2"],
        "double_blocks.0.img_mod.linear": [f"{double}norm1.linear"],
        "single_blocks.1.linear1": [f"{single}attn.to_{letter}" for letter in "qkv"] + [f"{single}proj_mlp"],
        "single_blocks.1.linear2": [f"{single}proj_out"],
    }
    generator, tensors = torch.Generator().manual_seed(4), {}
    for native, parts in fused.items():
        weights = [by_hand.get_parameter(f"{part}.weight") for part in parts]
        down = torch.randn((RANK, weights[0].shape[1]), generator=generator)
        up = 0.1 * torch.randn((sum(len(weight) for weight in weights), RANK), generator=generator)
        name = KINDS[kind](native)
        tensors |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": torch.tensor(ALPHA),
        }
        with torch.no_grad():
            for weight, change in zip(
                weights, (ALPHA / RANK * up @ down).split([len(w) for w in weights]), strict=True
            ):
                weight.add_(change)
    save_file(tensors, tmp_path / "lora.safetensors")
    assert len(read_header(tmp_path / "lora.safetensors").layers) == 3 + 3 + 1 + 1 + 4 + 1
    bare = velocity(ours)
    stack(ours, [(tmp_path / "lora.safetensors", 1.0)])
    assert (velocity(ours) - velocity(by_hand)).abs().max() < 1e-5
    assert (velocity(ours) - bare).abs().max() > 1e-2
    first = convert(tmp_path / "lora.safetensors", tmp_path / "a.safetensors", "comfyui")
    assert convert(first, tmp_path / "b.safetensors", "comfyui").read_bytes() == first.read_bytes()
    assert set(read_lora(first).key_types) >= {f"diffusion_model.{native}.lora_A.weight" for native in fused}


def test_a_lora_of_the_attention_alone_leaves_the_mlp_alone(others: dict[str, Path], tmp_path: Path) -> None:
    """Its rows are 0 in the fused layer, and are left out when the layer is split again."""
    source = random_lora(open_family(read_card(others[FIRST])), tmp_path / "lora.safetensors", r"attn\.to_[qkv]")
    file = convert(source, tmp_path / "out.safetensors", "comfyui")
    up = load_file(file)["diffusion_model.single_blocks.0.linear1.lora_B.weight"]
    assert up.shape == (7 * 24, 3 * RANK) and up[3 * 24 :].eq(0).all()
    assert read_lora(file).layers.keys() == read_lora(source).layers.keys()


def test_layers_that_only_bear_hunyuans_names_are_refused(tmp_path: Path) -> None:
    key = "diffusion_model.single_blocks.0.linear1"
    save_file(
        {f"{key}.lora_A.weight": torch.ones(2, 8), f"{key}.lora_B.weight": torch.ones(24, 2)},
        tmp_path / "lora.safetensors",
    )
    with pytest.raises(ModelError, match="their sizes differ"):
        read_lora(tmp_path / "lora.safetensors")


def test_ltx_layers_outside_the_blocks_have_other_names_at_home() -> None:
    for ours, own in (
        ("proj_in", "patchify_proj"),
        ("time_embed.emb.timestep_embedder.linear_1", "adaln_single.emb.timestep_embedder.linear_1"),
        ("av_cross_attn_video_a2v_gate.linear", "av_ca_a2v_gate_adaln_single.linear"),
        ("transformer_blocks.3.attn1.to_q", "transformer_blocks.3.attn1.to_q"),
    ):
        assert native_name(ours) == own and diffusers_name(own) == ours
        moved = theirs._convert_non_diffusers_ltx2_lora_to_diffusers(
            {f"diffusion_model.{own}.lora_A.weight": torch.ones(1)}
        )
        assert list(moved) == [f"transformer.{ours}.lora_A.weight"]
