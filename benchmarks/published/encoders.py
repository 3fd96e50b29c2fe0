"""The encoders of the measures: CLIP, DINOv2 and PickScore, by transformers' own classes and without remote code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from loraedit.batch.places import stamp
from loraedit.errors import InputError, ModelError
from loraedit.evaluate.encoder import check_image_encoder
from loraedit.families.hub import on_hub
from loraedit.runtime.devices import find_device
from loraedit.types import Frames, Image

__all__ = ["KINDS", "Clip", "Encoder", "Kind", "Views", "find_encoder"]

Kind = Literal["clip", "dino", "pick"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TYPES: dict[Kind, tuple[str, ...]] = {
    "clip": ("clip",),
    "dino": ("dinov2", "dinov2_with_registers", "dinov3_vit"),
    "pick": ("clip",),
}
"""Model types of transformers that each kind takes."""
BATCH = 16
MAX_TOKENS = 77
TOKENIZERS = ("tokenizer.json", "vocab.json")
PATTERNS = ("*.json", "*.txt", "*.safetensors")


@dataclass(frozen=True)
class Encoder:
    """An encoder on this machine.

    Attributes:
        kind: what it is used for.
        name: as the user gave it.
        folder: where it is.
        shape: its architecture, width x layers and patch of its image tower: two encoders of other shapes are others.
        content: a hash of its files.
    """

    kind: Kind
    name: str
    folder: Path
    shape: str
    content: str


def find_encoder(text: str, download: bool) -> Encoder:
    """Finds and checks an encoder without loading its weights.

    Args:
        text: ``KIND=FOLDER`` or ``KIND=HUB_ID``.
        download: fetch a Hub id that is not on this machine.

    Raises:
        InputError: the text has another form.
        ModelError: there is no such encoder, or it is of another kind.
    """
    kind = next((each for each in KINDS if text.startswith(f"{each}=")), None)
    if kind is None:
        raise InputError(f"--encoder '{text}' is not KIND=FOLDER. The kinds are {', '.join(KINDS)}.")
    name = text.partition("=")[2]
    folder = _folder(name, download)
    found = check_image_encoder(folder)
    if found not in TYPES[kind]:
        raise ModelError(f"'{name}' is a {found} model, but '{kind}' takes {' or '.join(TYPES[kind])}.")
    if found == "clip":
        _clip_processor(folder)
    return Encoder(kind, name, folder, _shape(folder), stamp(str(folder)))


class Views:
    """Holds the embeddings of a clip by CLIP.

    Attributes:
        pooled: output of the image tower, unprojected, float32 ``[F, D]``.
        scores: the model's logits of each frame with the text, ``[F]``: cosines times its scale, about -100 to 100.
    """

    def __init__(self, pooled: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        self.pooled, self.scores = pooled, scores


class Clip:
    """A loaded CLIP model with its text tower; PickScore is one."""

    def __init__(self, folder: Path) -> None:
        """Loads it to the best device.

        Raises:
            ModelError: its weights are incomplete.
        """
        from transformers import CLIPModel

        self._device, self._processor = find_device(None), _clip_processor(folder)
        model_class: Any = CLIPModel
        self._model, found = model_class.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, local_files_only=True
        )
        if found["missing_keys"]:
            raise ModelError(f"The weights in '{folder}' lack {sorted(found['missing_keys'])[0]}. Download it again.")
        self._model.eval().requires_grad_(False).to(self._device)

    def __call__(self, frames: Iterable[Image], text: str, max_side: int | None = None) -> Views:
        """Returns what the model sees in frames uint8 ``[H, W, 3]``.

        Args:
            text: cut after 77 tokens.
            max_side: first resize larger frames to this long side.
        """
        import torch

        pooled, scores = [], []
        with torch.inference_mode():
            words = self._normalized(self._model.get_text_features(**self._words(text)).pooler_output)
            for batch in _batches(frames):
                seen = self._model.vision_model(self._pixels(batch, max_side)).pooler_output
                images = self._normalized(self._model.visual_projection(seen))
                pooled.append(seen.float().cpu().numpy())
                scores.append((self._model.logit_scale.exp() * images @ words[0]).float().cpu().numpy())
        return Views(np.concatenate(pooled), np.concatenate(scores))

    def embed(self, frames: Frames) -> NDArray[np.float32]:
        """Returns the projected image embedding, float32 ``[F, P]``, vectors of length 1."""
        import torch

        with torch.inference_mode():
            seen = self._model.vision_model(self._pixels(list(frames), None)).pooler_output
            vectors = self._normalized(self._model.visual_projection(seen)).float().cpu().numpy()
        return np.asarray(vectors, np.float32)

    def _words(self, text: str) -> dict[str, Any]:
        inputs = self._processor(text=text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        return {name: value.to(self._device) for name, value in inputs.items()}

    def _pixels(self, frames: Sequence[Image], max_side: int | None) -> Any:
        images = [_limited(frame, max_side) for frame in frames]
        return self._processor(images=images, return_tensors="pt")["pixel_values"].to(self._device)

    @staticmethod
    def _normalized(vectors: Any) -> Any:
        return vectors / vectors.norm(dim=-1, keepdim=True)


def _folder(name: str, download: bool) -> Path:
    """Returns the folder of a path or of a Hub id.

    Raises:
        ModelError: it is not on this machine and may not be fetched, or cannot be.
    """
    if not on_hub(name):
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS), local_files_only=not download))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        way = "could not be fetched from the Hub" if download else "is not on this machine; add --download to fetch it"
        raise ModelError(f"Encoder '{name}' {way}. Or give a folder.") from error


def _clip_processor(folder: Path) -> Any:
    """Loads tokenizer and image processor.

    Raises:
        ModelError: one of them is missing or cannot be read.
    """
    from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizer

    if not any((folder / name).is_file() for name in TOKENIZERS):  # without one, transformers makes an empty tokenizer
        raise ModelError(
            f"'{folder}' has no {' or '.join(TOKENIZERS)}. Copy the tokenizer from the model that this one was made of."
        )
    processor_class: Any = CLIPProcessor
    try:
        images = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        return processor_class(images, CLIPTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"The processor in '{folder}' cannot be loaded ({reason}). Download it again.") from error


def _shape(folder: Path) -> str:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    vision = getattr(config, "vision_config", config)
    return f"{config.model_type} {vision.hidden_size}x{vision.num_hidden_layers}/{vision.patch_size}"


def _limited(frame: Image, max_side: int | None) -> PilImage.Image:
    image = PilImage.fromarray(frame)
    scale = 1.0 if max_side is None else max_side / max(image.size)
    return image if scale >= 1 else image.resize((int(scale * image.width), int(scale * image.height)))


def _batches(frames: Iterable[Image]) -> Iterator[list[Image]]:
    batch: list[Image] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
