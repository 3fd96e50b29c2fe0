"""How a file stores its weights is known from its header, and what cannot be read is refused before anything loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from loraedit.errors import ModelError
from loraedit.families.file_kinds import weight_kinds

NAME = "blocks.0.ffn.0"


def note(**form: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(form).encode()), dtype=torch.uint8)


def kinds(tmp_path: Path, metadata: dict[str, str] | None = None, **parts: Tensor) -> dict[str, str]:
    state = {f"{NAME}.{name}": value for name, value in parts.items()} | {f"{NAME}.bias": torch.zeros(64)}
    save_file(state, tmp_path / "model.safetensors", metadata)
    return weight_kinds(tmp_path / "model.safetensors", lambda name: name if "scale" not in name else None)


FP8 = torch.zeros(64, 64, dtype=torch.float8_e4m3fn)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"weight_scale": torch.ones(())},
        {"scale_weight": torch.ones(1)},
        {"weight_scale": torch.ones(64, 1), "input_scale": torch.ones(())},
        {"weight_scale": torch.ones(()), "comfy_quant": note(format="float8_e4m3fn")},
    ],
)
def test_fp8_is_recognised(parts: dict[str, Tensor], tmp_path: Path) -> None:
    assert kinds(tmp_path, weight=FP8, **parts) == {f"{NAME}.weight": "fp8"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_full_precision_is_no_kind(dtype: torch.dtype, tmp_path: Path) -> None:
    assert kinds(tmp_path, weight=FP8.to(dtype)) == {}


INT8, BYTES = torch.zeros(64, 64, dtype=torch.int8), torch.zeros(64, 32, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {
                "weight": INT8, "weight_scale": torch.ones(64, 1),
                "comfy_quant": note(format="int8_tensorwise", convrot=True, convrot_groupsize=64),
            },
            r"stores blocks.0.ffn.0 as int8_tensorwise with rotated weights \(convrot\)",
        ),
        ({"weight": INT8, "weight_scale": torch.ones(64, 1)}, "stores blocks.0.ffn.0.weight as I8 with factors"),
        ({"weight": FP8, "weight_scale": torch.ones(64, 2)}, "as F8_E4M3 with factors"),
        ({"weight": FP8, "weight_scale": torch.zeros(64, 2, dtype=torch.uint8)}, "as F8_E4M3 with factors"),
        ({"weight": FP8, "comfy_quant": note(format="mxfp8")}, "as mxfp8, which loraedit cannot read yet"),
        ({"weight": BYTES, "weight_scale": FP8[:, :4].contiguous()}, "as U8 with factors"),
        ({"weight": BYTES, "comfy_quant": note(format="nvfp4")}, "as nvfp4, which loraedit cannot read yet"),
        ({"weight": FP8, "comfy_quant": torch.zeros(3, dtype=torch.uint8)}, "notes on quantised layers"),
    ],
)  # fmt: skip
def test_kinds_that_cannot_be_read_are_refused(parts: dict[str, Tensor], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        kinds(tmp_path, **parts)


def test_notes_in_the_header_count_too(tmp_path: Path) -> None:
    layers = {"layers": {NAME: {"format": "nvfp4"}}}
    with pytest.raises(ModelError, match="as nvfp4"):
        kinds(tmp_path, {"_quantization_metadata": json.dumps(layers)}, weight=FP8)


def test_gguf_types_are_named_and_unknown_ones_refused(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    for kind, size in (("Q4_K", 144), ("TQ1_0", 54)):
        writer = gguf.GGUFWriter(tmp_path / f"{kind}.gguf", "wan")
        codes = torch.zeros(2, size, dtype=torch.uint8).numpy()
        writer.add_tensor(f"{NAME}.weight", codes, raw_dtype=gguf.GGMLQuantizationType[kind])
        writer.add_tensor(f"{NAME}.bias", torch.zeros(2).numpy())
        for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
            write()
        writer.close()
    assert weight_kinds(tmp_path / "Q4_K.gguf", str) == {f"{NAME}.weight": "Q4_K"}
    with pytest.raises(ModelError, match="as TQ1_0, which loraedit cannot read"):
        weight_kinds(tmp_path / "TQ1_0.gguf", str)
