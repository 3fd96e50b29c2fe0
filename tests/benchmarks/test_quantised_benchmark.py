"""The benchmark of quantised weights compares files of every kind with the weights that they were made from."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("gguf")

from native_names import native_tensor_name

from benchmarks.quantised import FULL, GGUF, cases_of, files_of, gguf_kind, held_bytes
from loraedit.families.card import NANO
from loraedit.families.folder import file_shapes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    state = load_file(NANO / "transformer/diffusion_pytorch_model.safetensors")
    native = {native_tensor_name(name): value.bfloat16() for name, value in state.items()}
    return files_of(native, tmp_path_factory.mktemp("files"))


def test_every_file_holds_the_same_tensors_and_is_held_in_its_size(files: dict[str, Path]) -> None:
    shapes = file_shapes(files[FULL])
    for file in files.values():
        found = {name: shape for name, shape in file_shapes(file).items() if "scale" not in name}
        assert {name: math.prod(shape) for name, shape in found.items()} == {
            name: math.prod(shape) for name, shape in shapes.items()
        }
    cases = cases_of(NANO, files)
    whole = held_bytes(cases[FULL])
    assert all(held_bytes(cases[kind]) < 0.75 * whole for kind in (*GGUF, "fp8 file", "--weights int8"))


def test_types_of_long_blocks_are_replaced_where_a_row_is_short() -> None:
    kinds = [gguf_kind("Q4_K", "blocks.0.ffn.2.weight", torch.zeros(2, width)) for width in (192, 768)]
    assert kinds == ["Q5_0", "Q4_K"]
    assert gguf_kind("Q4_K", "head.head.weight", torch.zeros(2, 768)) is None
