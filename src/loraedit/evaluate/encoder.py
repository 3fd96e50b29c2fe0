"""An image encoder in transformers layout, such as CLIP, which turns frames into vectors of length 1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loraedit.errors import ModelError
from loraedit.storage.files import read_json
from loraedit.types import Frames

if TYPE_CHECKING:
    import torch

__all__ = ["ImageEncoder", "check_image_encoder"]

BATCH = 16
CLIP_KINDS = frozenset({"clip", "clip_vision_model"})
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_EXPECTED = "Expected a CLIP, SigLIP or DINOv2 folder as transformers saves it, with safetensors weights."


def check_image_encoder(folder: Path) -> str:
    """Checks that a folder can be an image encoder, before anything heavy loads.

    Returns:
        The model type in its ``config.json``, such as ``clip``.

    Raises:
        ModelError: the folder or one of its files is missing or cannot be read.
    """
    try:
        config = read_json(folder / "config.json")
        weights = list(folder.glob("*.safetensors"))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{folder}' is not an image encoder: its config.json cannot be read. {_EXPECTED}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"'{folder}' is not an image encoder: its config.json has no model_type. {_EXPECTED}")
    if not weights:
        raise ModelError(f"'{folder}' has no .safetensors weights. {_EXPECTED}")
    if not any((folder / name).is_file() for name in PROCESSOR_FILES):
        raise ModelError(f"'{folder}' is not an image encoder: it has no {PROCESSOR_FILES[0]}. {_EXPECTED}")
    return str(config["model_type"])


class ImageEncoder:
    """A loaded image encoder; call it with frames. It downloads nothing and runs no code of the folder.

    CLIP gives its projected image embedding, other models their image features or pooled output.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Loads the encoder.

        Raises:
            ModelError: the folder is not an image encoder, or its weights are incomplete.
        """
        kind = check_image_encoder(folder)
        self._processor, self._model = _load(folder, kind)
        self._model.eval().requires_grad_(False).to(device)
        self._device = device

    def __call__(self, frames: Frames) -> NDArray[np.float32]:
        """Returns one vector of length 1 per frame, float32 ``[F, D]``, for frames uint8 ``[F, H, W, 3]``."""
        import torch

        batches = [self._features(frames[start : start + BATCH]) for start in range(0, len(frames), BATCH)]
        vectors = torch.nn.functional.normalize(torch.cat(batches).float(), dim=-1)
        return np.asarray(vectors.cpu().numpy(), np.float32)

    def _features(self, frames: Frames) -> torch.Tensor:
        import torch

        run = getattr(self._model, "get_image_features", self._model)
        try:
            pixels = self._processor(images=list(frames), return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                return _vectors(run(pixel_values=pixels.to(self._device)))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            reason = f"{type(self._model).__name__} does not take images alone"
            raise ModelError(f"This model is not an image encoder: {reason}. {_EXPECTED}") from error


def _load(folder: Path, kind: str) -> tuple[Any, Any]:
    """Loads image processor and model."""
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor, AutoModel, CLIPVisionModelWithProjection

    processor_class: Any = AutoImageProcessor
    model_class: Any = CLIPVisionModelWithProjection if kind in CLIP_KINDS else AutoModel
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = processor_class.from_pretrained(folder, backend="pil", **options)
        model, found = model_class.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"'{folder}' cannot be loaded as an image encoder ({reason}). {_EXPECTED}") from error
    if found["missing_keys"]:
        raise ModelError(f"The weights in '{folder}' lack {sorted(found['missing_keys'])[0]}. Download it again.")
    return processor, model


def _vectors(output: Any) -> torch.Tensor:
    """Extracts the vectors ``[F, D]`` from the output of an image model."""
    import torch

    if isinstance(output, torch.Tensor):
        return output
    for name in ("image_embeds", "pooler_output"):
        found = getattr(output, name, None)
        if isinstance(found, torch.Tensor):
            return found.flatten(1)
    hidden: torch.Tensor = output.last_hidden_state
    return hidden.flatten(2).mean(-1) if hidden.ndim == 4 else hidden.mean(1)
