"""Loads a transformer from one file, as used in ComfyUI: safetensors in any precision, scaled fp8, or GGUF."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor

from loraedit.families.model_card import SingleFile

__all__ = ["load_single_file"]

Rename = Callable[[str], str | None]


def load_single_file(kind: Any, file: SingleFile, rename: Rename, scales: tuple[str, ...], dtype: torch.dtype) -> Any:
    """Loads a transformer whose header was checked against its configuration before.

    Safetensors are converted to ``dtype``, except layers that diffusers keeps in float32; scaled fp8 weights are
    multiplied by their factors. GGUF weights stay quantised, and each layer is dequantised when it computes.

    Args:
        kind: the class in diffusers.
        file: the file with its configuration.
        rename: maps the file's tensor names to those of diffusers, or to None for a tensor that is not a parameter.
        scales: endings of the names of fp8 factors, in place of ``.weight``.
        dtype: the precision to compute in.
    """
    if file.path.suffix == ".gguf":
        return _load_gguf(kind, file, rename, dtype)
    with init_empty_weights(include_buffers=False):
        model = kind.from_config(file.config)
    float32_parts = set(kind._keep_in_fp32_modules or ())
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    with safe_open(file.path, "pt") as tensors:
        names = set(tensors.keys())
        for name in sorted(names):
            key = rename(name)
            if key is None:
                continue
            value = tensors.get_tensor(name)
            for factor in {name.removesuffix(".weight") + end for end in scales} & names:
                value = value.float() * tensors.get_tensor(factor).float()
            state[key] = value.reshape(shapes[key]).to(torch.float32 if float32_parts & set(key.split(".")) else dtype)
    model.load_state_dict(state, assign=True)
    return model


def _load_gguf(kind: Any, file: SingleFile, rename: Rename, dtype: torch.dtype) -> Any:
    """Loads a GGUF file with diffusers' own reader and quantizer."""
    from diffusers import GGUFQuantizationConfig
    from diffusers.models.model_loading_utils import load_gguf_checkpoint

    state = {rename(name): value for name, value in load_gguf_checkpoint(str(file.path)).items()}
    state.pop(None, None)
    with tempfile.TemporaryDirectory() as folder:
        config = {"_class_name": kind.__name__, **file.config}
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return kind.from_single_file(
            state, config=folder, quantization_config=GGUFQuantizationConfig(compute_dtype=dtype), dtype=dtype
        )
