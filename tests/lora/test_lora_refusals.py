"""LoRA files that are refused by their headers, and the option for extra LoRAs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from loraedit.errors import InputError, ModelError
from loraedit.lora.extra import ExtraLora, distilled_steps, for_expert, parse_extra
from loraedit.lora.header import read_header
from loraedit.lora.reading import read_lora


def one_layer(key: str = "diffusion_model.blocks.0.self_attn.q", **more: Tensor) -> dict[str, Tensor]:
    pair = {f"{key}.lora_down.weight": torch.ones(2, 8), f"{key}.lora_up.weight": torch.ones(8, 2)}
    return pair | {f"{key}.{name}": value for name, value in more.items()}


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def lie(path: Path) -> None:
    """Writes a header with a larger shape than the file has bytes for."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(b'"shape":[2,8]', b'"shape":[9,8]')
    assert header != content[8 : 8 + length]
    path.write_bytes(content[:8] + header + content[8 + length :])


def boundless(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + path.read_bytes()[8:])


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"lora": [1, 2, 3]}))


@pytest.mark.parametrize("damage", [cut_short, lie, boundless, pickled])
@pytest.mark.parametrize("read", [read_header, read_lora])
def test_a_file_that_is_not_what_it_says_is_refused(damage: Any, read: Any, tmp_path: Path) -> None:
    save_file(one_layer(), tmp_path / "lora.safetensors")
    damage(tmp_path / "lora.safetensors")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        read(tmp_path / "lora.safetensors")


STRANGE: dict[str, tuple[dict[str, Tensor], str]] = {
    "a model": ({"blocks.0.attn1.to_q.weight": torch.ones(8, 8)}, "not a LoRA file of a known kind"),
    "no matrices": ({"diffusion_model.blocks.0.self_attn.q.diff_b": torch.ones(8)}, "holds no LoRA"),
    "half a layer": ({k: v for k, v in one_layer().items() if "down" in k}, "lacks one of the two matrices"),
    "two ranks": ({k: v[:, :1].clone() if "up" in k else v for k, v in one_layer().items()}, "of one rank"),
    "rank 0": ({k: v[:, :0].clone() if "up" in k else v[:0] for k, v in one_layer().items()}, "of one rank"),
    "LoKr": ({"lora_unet_blocks_0_self_attn_q.lokr_w1": torch.ones(2, 2)}, "is a LoKr file"),
    "DoRA": (one_layer(dora_scale=torch.ones(8)), "is a DoRA file"),
    "alpha of 0": (one_layer(alpha=torch.tensor(0.0)), "Expected a number above 0"),
    "alpha that is no number": (one_layer(alpha=torch.tensor(float("nan"))), "Expected a number above 0"),
    "many alphas": (one_layer(alpha=torch.ones(3)), "not one number"),
    "twice": ({**one_layer(), **one_layer("lora_unet_blocks_0_self_attn_q")}, "twice"),
    "unprintable": (one_layer("blocks.0.\x1b[31m"), "cannot be printed"),
    "unknown flat name": (one_layer("lora_unet_blocks_0_self_attn_z"), "no known model has"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_file_that_is_no_plain_lora_is_refused_by_its_header(name: str, tmp_path: Path) -> None:
    tensors, message = STRANGE[name]
    save_file(tensors, tmp_path / "lora.safetensors")
    for read in (read_header, read_lora):
        with pytest.raises(ModelError, match=message):
            read(tmp_path / "lora.safetensors")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_header_holds_the_alpha_of_any_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file(one_layer(alpha=torch.tensor(1.5, dtype=dtype)), tmp_path / "lora.safetensors")
    header = read_header(tmp_path / "lora.safetensors")
    assert [(layer.rank, layer.alpha) for layer in header.layers.values()] == [(2, 1.5)]


@pytest.mark.parametrize(
    "config", ["[" * 100_000, "[1]", '{"transformer.lora_alpha": [1]}', '{"transformer.lora_alpha": "x"}']
)
def test_a_strange_adapter_configuration_is_refused(config: str, tmp_path: Path) -> None:
    save_file(one_layer(), tmp_path / "lora.safetensors", {"lora_adapter_metadata": config})
    with pytest.raises(ModelError, match="configuration that cannot be read"):
        read_lora(tmp_path / "lora.safetensors")


def test_an_extra_lora_is_file_weight_and_noise() -> None:
    assert parse_extra("a b.safetensors") == ExtraLora(Path("a b.safetensors"))
    assert parse_extra("C:\\x.safetensors:-.5") == ExtraLora(Path("C:\\x.safetensors"), -0.5)
    assert parse_extra("x:1e-1:LOW") == ExtraLora(Path("x"), 0.1, "low")
    extras = [ExtraLora(Path("h"), 1.0, "high"), ExtraLora(Path("b"), 2.0), ExtraLora(Path("l"), 3.0, "low")]
    experts = ("transformer", "transformer_2")
    assert for_expert(extras, "transformer", experts) == [(Path("h"), 1.0), (Path("b"), 2.0)]
    assert for_expert(extras, "transformer_2", experts) == [(Path("b"), 2.0), (Path("l"), 3.0)]
    for text in ("", "x:1e999", "x:5000"):
        with pytest.raises(InputError, match="is not of the form"):
            parse_extra(text)


@pytest.mark.parametrize(
    ("name", "title", "steps"),
    [
        ("lightx2v_I2V_14B_480p_cfg_step_distill_rank128_bf16", "", 4),
        ("Wan2.2-Lightning_I2V-A14B-4steps-lora_HIGH_fp16", "", 4),
        ("my_turbo_8step", "", 8),
        ("renamed", "wan_distilled_6_steps", 6),
        ("a_man_2steps_back", "", None),
        ("style", "", None),
    ],
)
def test_a_distilled_lora_is_known_by_its_name(name: str, title: str, steps: int | None, tmp_path: Path) -> None:
    save_file(one_layer(), tmp_path / f"{name}.safetensors", {"ss_output_name": title} if title else None)
    assert distilled_steps(ExtraLora(tmp_path / f"{name}.safetensors")) == steps
