"""Claims about LoRA files: all public kinds give the same result, are written exactly, and are checked early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from safetensors.torch import load_file, save_file
from tiny import tiny_transformer
from torch import Tensor, nn

from loraedit.errors import ModelError
from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.card import NANO, read_card
from loraedit.families.layer_names import diffusers_name, native_name, spread_flat_name
from loraedit.lora.adapter import attach, lora_parameters, merge, stack
from loraedit.lora.export import convert, describe
from loraedit.lora.extra import ExtraLora, check_extras
from loraedit.lora.reading import read_lora
from loraedit.lora.writing import write_lora

CPU = torch.device("cpu")
LAYERS = {  # diffusers' name, Wan's own
    "attn1.to_q": "self_attn.q", "attn1.to_k": "self_attn.k", "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o", "attn2.to_q": "cross_attn.q", "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v", "attn2.to_out.0": "cross_attn.o", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
}  # fmt: skip
ALPHA, RANK = 1.3, 3
Pairs = dict[str, tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def nano() -> Family:
    return open_family(read_card(NANO))


@pytest.fixture(scope="module")
def pairs(nano: Family) -> Pairs:
    """Draws random A and B for every layer of nano that a LoRA adapts, by diffusers' name."""
    generator, made = torch.Generator().manual_seed(0), {}
    for name, parameter in transformer_of(nano).named_parameters():
        layer = name.removesuffix(".weight")
        if name.startswith("blocks.") and layer.split(".", 2)[2] in LAYERS and layer != name:
            out, inner = parameter.shape
            made[layer] = tuple(0.05 * torch.randn(s, generator=generator) for s in ((RANK, inner), (out, RANK)))
    assert len(made) == 10 * 6
    return made


def transformer_of(family: Family) -> nn.Module:
    return family.load_transformer(family.experts[0], CPU)


def native(layer: str) -> str:
    _, block, rest = layer.split(".", 2)
    return f"blocks.{block}.{LAYERS[rest]}"


def flat(layer: str) -> str:
    return native(layer).replace(".", "_")


def save_as(kind: str, path: Path, pairs: Pairs) -> Path:
    """Writes a file as programs of this kind do."""
    tensors: dict[str, Tensor] = {}
    metadata = {"title": "of a test"}
    for layer, (down, up) in pairs.items():
        if kind == "diffusers":
            tensors |= {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}
        elif kind == "peft":
            tensors |= {f"base_model.model.{layer}.lora_A.weight": down, f"base_model.model.{layer}.lora_B.weight": up}
        elif kind == "diffsynth":
            key = native(layer)
            tensors |= {f"{key}.lora_A.default.weight": down, f"{key}.lora_B.default.weight": up * (ALPHA / RANK)}
        else:
            key = f"lora_unet_{flat(layer)}" if kind == "musubi" else f"diffusion_model.{native(layer)}"
            tensors |= {
                f"{key}.lora_down.weight": down,
                f"{key}.lora_up.weight": up,
                f"{key}.alpha": torch.tensor(ALPHA),
            }
    if kind == "diffusers":
        config = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA, "transformer.target_modules": list(pairs)}
        metadata["lora_adapter_metadata"] = json.dumps(config)
    if kind == "peft":
        path.with_name("adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    save_file(tensors, path, metadata)
    return path


KINDS = ["native", "musubi", "diffusers", "peft", "diffsynth"]


def velocity(family: Family, transformer: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    c, m, text = family.card.latent_channels, family.card.temporal, transformer.config.text_dim  # type: ignore[union-attr]
    condition = Encoded(torch.rand((m + c, 2, 8, 8), generator=generator), torch.randn((4, text), generator=generator))
    latents = torch.randn((1, c, 2, 8, 8), generator=generator)
    with torch.inference_mode():
        return family.velocity(transformer, latents, torch.tensor([600.0]), batch([condition]))


def by_hand(family: Family, pairs: Pairs, weight: float) -> Tensor:
    """Computes the velocity with W + weight alpha / rank B A as weights."""
    transformer = transformer_of(family)
    with torch.no_grad():
        for layer, (down, up) in pairs.items():
            transformer.get_parameter(f"{layer}.weight").add_(weight * ALPHA / RANK * up @ down)
    return velocity(family, transformer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_any_kind_acts_as_its_formula_says(nano: Family, pairs: Pairs, kind: str, tmp_path: Path) -> None:
    file = save_as(kind, tmp_path / "lora.safetensors", pairs)
    transformer = transformer_of(nano)
    bare = velocity(nano, transformer)
    stack(transformer, [(file, 0.7)])
    assert (velocity(nano, transformer) - by_hand(nano, pairs, 0.7)).abs().max() < 1e-5
    assert (velocity(nano, transformer) - bare).abs().max() > 1e-3
    assert not any(parameter.requires_grad for parameter in transformer.parameters())


def test_extra_loras_add_up_and_lie_under_the_one_that_is_trained(nano: Family, pairs: Pairs, tmp_path: Path) -> None:
    first = save_as("native", tmp_path / "a.safetensors", pairs)
    second = save_as("musubi", tmp_path / "b.safetensors", pairs)
    transformer = transformer_of(nano)
    stack(transformer, [(first, 0.7), (second, -0.2)])
    attach(transformer, nano.lora_targets("attention"), rank=2, seed=0)  # B = 0: changes nothing yet
    assert (velocity(nano, transformer) - by_hand(nano, pairs, 0.5)).abs().max() < 1e-5
    trained = dict(lora_parameters(transformer))
    assert len(trained) == 2 * 8 * 6
    assert {id(p) for p in transformer.parameters() if p.requires_grad} == {id(p) for p in trained.values()}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.add_(0.05 if name.endswith("lora_B") else 0.0)
    assert (velocity(nano, transformer) - by_hand(nano, pairs, 0.5)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["comfyui", "diffusers", "musubi"])
def test_plain_diffusers_reads_what_is_exported(
    nano: Family, pairs: Pairs, kind: str, form: str, tmp_path: Path
) -> None:
    source = save_as(kind, tmp_path / "lora.safetensors", pairs)
    file = convert(source, tmp_path / "out.safetensors", form)
    pipeline = WanImageToVideoPipeline.from_pretrained(
        NANO, dtype=torch.float32, text_encoder=None, tokenizer=None, vae=None
    )
    pipeline.load_lora_weights(file)
    assert (velocity(nano, pipeline.transformer) - by_hand(nano, pairs, 1.0)).abs().max() < 1e-5


def test_wans_own_names_are_those_of_its_checkpoints() -> None:
    with torch.device("meta"):
        names = dict(tiny_transformer(4, image_encoder=True).named_parameters())
    layers = {name.rpartition(".")[0] for name in names} - {"", "blocks.0", "blocks.1"}
    own = {native_name(layer): layer for layer in layers}
    assert len(own) == len(layers) and {diffusers_name(name) for name in own} == layers
    checkpoint = {f"{name}.weight": torch.empty(0) for name in own}
    assert set(convert_wan_transformer_to_diffusers(checkpoint)) == {f"{layer}.weight" for layer in layers}
    for name in own:
        assert spread_flat_name(name.replace(".", "_")) == name


def test_what_is_exported_has_the_names_of_the_programs_it_is_for(pairs: Pairs, tmp_path: Path) -> None:
    source = save_as("diffusers", tmp_path / "lora.safetensors", pairs)
    expected = {
        "comfyui": {
            f"diffusion_model.{native(layer)}.{part}"
            for layer in pairs for part in ("lora_A.weight", "lora_B.weight", "alpha")
        },
        "musubi": {
            f"lora_unet_{flat(layer)}.{part}"
            for layer in pairs for part in ("lora_down.weight", "lora_up.weight", "alpha")
        },
    }  # fmt: skip
    for form, keys in expected.items():
        assert set(load_file(convert(source, tmp_path / f"{form}.safetensors", form))) == keys


@pytest.mark.parametrize("kind", KINDS)
def test_going_through_any_forms_and_back_is_exact(pairs: Pairs, kind: str, tmp_path: Path) -> None:
    half = {layer: (down.bfloat16(), up.half()) for layer, (down, up) in pairs.items()}
    source = save_as(kind, tmp_path / "lora.safetensors", half)
    forms = ["comfyui", "diffusers", "musubi"]
    direct = {form: convert(source, tmp_path / f"{form}.safetensors", form).read_bytes() for form in forms}
    for through in forms:
        for form in forms:
            again = convert(tmp_path / f"{through}.safetensors", tmp_path / "again.safetensors", form)
            assert again.read_bytes() == direct[form]
    ours, theirs = read_lora(tmp_path / "again.safetensors"), read_lora(source)
    assert ours.layers.keys() == theirs.layers.keys() == pairs.keys()
    for name, layer in ours.layers.items():
        assert torch.equal(layer.down, theirs.layers[name].down) and layer.down.dtype == torch.bfloat16
        assert torch.equal(layer.up, theirs.layers[name].up) and layer.up.dtype == torch.float16
        assert layer.alpha == theirs.layers[name].alpha


def test_the_same_lora_gives_the_same_bytes_whatever_its_metadata(pairs: Pairs, tmp_path: Path) -> None:
    tensors = load_file(save_as("native", tmp_path / "lora.safetensors", pairs))
    save_file(tensors, tmp_path / "lora.safetensors", {f"key{i}": "ü" * i for i in range(9)})
    lora, written = read_lora(tmp_path / "lora.safetensors"), set()
    for _ in range(8):
        write_lora(tmp_path / "out.safetensors", lora, "comfyui")
        written.add((tmp_path / "out.safetensors").read_bytes())
    assert len(written) == 1
    assert read_lora(tmp_path / "out.safetensors").metadata == lora.metadata


def test_a_lower_precision_is_a_choice_that_is_checked(pairs: Pairs, tmp_path: Path) -> None:
    source = save_as("native", tmp_path / "lora.safetensors", pairs)
    half = load_file(convert(source, tmp_path / "half.safetensors", "comfyui", "fp16"))
    assert {value.dtype for key, value in half.items() if not key.endswith("alpha")} == {torch.float16}
    huge = {layer: (1e9 * down, up) for layer, (down, up) in pairs.items()}
    source = save_as("native", tmp_path / "huge.safetensors", huge)
    with pytest.raises(ModelError, match=r"torch\.float16 cannot hold"):
        convert(source, tmp_path / "none.safetensors", "comfyui", "fp16")
    assert not (tmp_path / "none.safetensors").exists()


def save_distilled(path: Path, family: Family, pairs: Pairs) -> dict[str, Tensor]:
    """Writes a LoRA like the 4-step ones: low rank with alpha, and whole differences of norms, biases and tables."""
    parameters = dict(transformer_of(family).named_parameters())
    whole = {
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "blocks.0.diff_m": "blocks.0.scale_shift_table",
        "time_embedding.0.diff_b": "condition_embedder.time_embedder.linear_1.bias",
        "head.head.diff": "proj_out.weight",
        "head.head.diff_b": "proj_out.bias",
    }
    generator = torch.Generator().manual_seed(3)
    changes = {ours: 0.1 * torch.randn(parameters[ours].shape, generator=generator) for ours in whole.values()}
    tensors = load_file(save_as("native", path, pairs))
    save_file({**tensors, **{f"diffusion_model.{key}": changes[ours] for key, ours in whole.items()}}, path)
    return changes


def test_whole_differences_of_distilled_loras_are_added(nano: Family, pairs: Pairs, tmp_path: Path) -> None:
    changes = save_distilled(tmp_path / "lora.safetensors", nano, pairs)
    transformer, reference = transformer_of(nano), transformer_of(nano)
    stack(transformer, [(tmp_path / "lora.safetensors", 0.5), (tmp_path / "lora.safetensors", 0.5)])
    with torch.no_grad():
        for name, change in changes.items():
            reference.get_parameter(name).add_(change)
        for layer, (down, up) in pairs.items():
            reference.get_parameter(f"{layer}.weight").add_(ALPHA / RANK * up @ down)
    assert (velocity(nano, transformer) - velocity(nano, reference)).abs().max() < 1e-5


def test_whole_differences_go_through_comfyui_alone(nano: Family, pairs: Pairs, tmp_path: Path) -> None:
    changes = save_distilled(tmp_path / "lora.safetensors", nano, pairs)
    again = read_lora(convert(tmp_path / "lora.safetensors", tmp_path / "again.safetensors", "comfyui"))
    assert again.differences.keys() == changes.keys()
    assert all(torch.equal(again.differences[name], change) for name, change in changes.items())
    with pytest.raises(ModelError, match="Use --format comfyui"):
        convert(tmp_path / "lora.safetensors", tmp_path / "none.safetensors", "diffusers")


def test_layers_may_differ_in_rank_and_alpha(nano: Family, tmp_path: Path) -> None:
    shape = transformer_of(nano).get_parameter("blocks.0.ffn.net.0.proj.weight").shape
    tensors = {}
    for rank, key in ((2, "blocks.0.ffn.0"), (5, "blocks.1.ffn.0")):
        tensors[f"diffusion_model.{key}.lora_down.weight"] = torch.randn(rank, shape[1])
        tensors[f"diffusion_model.{key}.lora_up.weight"] = torch.randn(shape[0], rank)
        tensors[f"diffusion_model.{key}.alpha"] = torch.tensor(float(rank + 1))
    save_file(tensors, tmp_path / "lora.safetensors")
    transformer, reference = transformer_of(nano), transformer_of(nano)
    stack(transformer, [(tmp_path / "lora.safetensors", 0.1)])
    pipeline = WanImageToVideoPipeline.from_pretrained(
        NANO, dtype=torch.float32, text_encoder=None, tokenizer=None, vae=None
    )
    pipeline.load_lora_weights(convert(tmp_path / "lora.safetensors", tmp_path / "out.safetensors", "diffusers"))
    pipeline.set_adapters(pipeline.get_active_adapters(), [0.1])
    assert (velocity(nano, transformer) - velocity(nano, pipeline.transformer)).abs().max() < 1e-5
    assert (velocity(nano, transformer) - velocity(nano, reference)).abs().max() > 1e-3


def test_a_lora_of_another_model_is_refused_and_of_a_sister_model_told(
    nano: Family, pairs: Pairs, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    file = save_as("native", tmp_path / "lora.safetensors", pairs)
    assert check_extras([ExtraLora(file)], nano.card) == []
    with pytest.raises(ModelError, match=r"made for another model: it changes blocks\.0\.attn1\.to_k\.weight"):
        check_extras([ExtraLora(file)], read_card(checkpoints["plain"]))
    image = {f"diffusion_model.blocks.0.cross_attn.k_img.lora_{side}.weight": torch.ones(7, 7) for side in "AB"}
    save_file({**load_file(file), **image}, file)
    assert check_extras([ExtraLora(file)], nano.card) == [
        "1 layers of 'lora.safetensors' are not in this model and have no effect."
    ]
    stack(transformer_of(nano), [(file, 1.0)])
    save_file(image, file)
    with pytest.raises(ModelError, match="none of its layers"):
        check_extras([ExtraLora(file)], nano.card)
    bad = {layer: (down * float("inf"), up) for layer, (down, up) in pairs.items()}
    with pytest.raises(ModelError, match="not finite"):
        stack(transformer_of(nano), [(save_as("native", file, bad), 1.0)])
    large = {layer: (down * 1e30, up * 1e30) for layer, (down, up) in pairs.items()}
    transformer = transformer_of(nano)
    stack(transformer, [(save_as("native", file, large), 1.0)])
    with pytest.raises(ModelError, match="Give them less weight"):
        merge(transformer)


def test_a_file_is_described_by_its_header(pairs: Pairs, tmp_path: Path) -> None:
    tensors = load_file(save_as("native", tmp_path / "lora.safetensors", pairs))
    save_file(tensors, tmp_path / "lora.safetensors", {"loraedit": json.dumps({"base": "nano"})})
    facts = describe(tmp_path / "lora.safetensors")
    assert (facts["ranks"], facts["precisions"], facts["base"]) == ([RANK], ["F32"], "nano")
    assert facts["layers"] == {f"blocks.*.{theirs}": 6 for theirs in LAYERS.values()}
    assert facts["scales"] == [pytest.approx(ALPHA / RANK)]
