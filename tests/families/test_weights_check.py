"""A loaded encoder without the weights of its files is found out, whatever version of a library loaded it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_text_encoder
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from loraedit.errors import ModelError
from loraedit.families.weights_check import check_loaded

Tensors = dict[str, Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns the folder of a text encoder as Wan publishes it: the embedding under one name, and not tied."""
    tiny_text_encoder().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    assert "shared.weight" in stored(tmp_path) and "encoder.embed_tokens.weight" not in stored(tmp_path)
    return tmp_path


def stored(folder: Path) -> Tensors:
    return load_file(folder / "model.safetensors")


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> UMT5EncoderModel:
    return UMT5EncoderModel.from_pretrained(folder, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_encoder_as_wan_publishes_it_is_loaded_whole(folder: Path, dtype: torch.dtype) -> None:
    model = loaded(folder, dtype)
    check_loaded(model, folder)
    assert torch.equal(model.get_input_embeddings().weight, stored(folder)["shared.weight"].to(dtype))


def test_an_embedding_that_was_left_random_is_refused(folder: Path) -> None:
    """transformers 5.0.0 did that: the encoder's embedding was neither tied nor loaded."""
    model = loaded(folder)
    model.encoder.embed_tokens = nn.Embedding(8, 16)
    with pytest.raises(ModelError, match=r"lacks the tensor encoder\.embed_tokens\.weight, or it was not loaded"):
        check_loaded(model, folder)


def test_a_tensor_that_was_replaced_by_one_that_it_was_tied_to_is_refused(folder: Path) -> None:
    tensors = stored(folder)
    save_file({**tensors, "encoder.embed_tokens.weight": tensors["shared.weight"] + 1}, folder / "model.safetensors")
    model = tiny_text_encoder()
    assert model.encoder.embed_tokens.weight is model.shared.weight
    with pytest.raises(ModelError, match=r"The tensor encoder\.embed_tokens\.weight of .* was not loaded"):
        check_loaded(model, folder)


@pytest.mark.parametrize("end", ["shared.weight", "SelfAttention.k.weight", "layer_norm.weight"])
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_a_missing_tensor_is_refused_even_if_all_names_were_changed(folder: Path, end: str, prefix: str) -> None:
    tensors, model = stored(folder), loaded(folder)
    whole = {prefix + name: tensor for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors")
    check_loaded(model, folder)
    lost = next(name for name in whole if name.endswith(end))
    save_file({name: tensor for name, tensor in whole.items() if name != lost}, folder / "model.safetensors")
    parameter = dict(model.named_parameters())[lost.removeprefix(prefix)]
    if not end.startswith("layer_norm"):  # without its tensor a norm stays one
        parameter.data = torch.randn_like(parameter)
    with pytest.raises(ModelError, match="lacks the tensor"):
        check_loaded(model, folder)


@pytest.mark.parametrize("change", [lambda tensor: tensor + 1, lambda tensor: tensor.flip(0)])
def test_a_tensor_with_other_values_is_refused(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    model = loaded(folder)
    parameter = dict(model.named_parameters())["encoder.block.0.layer.0.SelfAttention.k.weight"]
    parameter.data = change(parameter.data)
    with pytest.raises(ModelError, match="was not loaded as it is in its file"):
        check_loaded(model, folder)
