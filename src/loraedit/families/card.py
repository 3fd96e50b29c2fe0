"""A checkpoint's card: what can be known from its small JSON files, before any weights load.

A folder in diffusers layout is enough. A file ``loraedit.json`` beside ``model_index.json`` may state the working
size and the recipe; without it the family's usual values hold.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from loraedit.config import Recipe
from loraedit.errors import ModelError
from loraedit.files import fingerprint

__all__ = ["CardFile", "ModelCard", "lora_rank", "read_card", "read_card_file", "read_json", "resolve_model"]

NANO = Path(__file__).parents[1] / "nano"
CARD_FILE = "loraedit.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Positive = Annotated[int, Field(ge=1)]


class CardFile(BaseModel):
    """The fields of ``loraedit.json``; the defaults are those of Wan2.1-I2V-14B-480P.

    Attributes:
        area_px: frame area the model was trained at, in pixels.
        text_tokens: length to which prompts are padded.
        recipe: defaults for training and sampling.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    area_px: Positive = 832 * 480
    text_tokens: Positive = 512
    recipe: Recipe = Recipe()


class ModelCard(BaseModel):
    """What loraedit knows about a checkpoint.

    Attributes:
        folder: the checkpoint, in diffusers layout.
        pipeline: the pipeline class named by ``model_index.json``.
        spatial: pixels per latent cell, per side.
        temporal: frames per latent frame.
        multiple_px: height and width must be multiples of this.
        frame_step: clips have ``frame_step * n + 1`` frames.
        latent_channels: channels of a latent.
        experts: folders of the transformers, the one for high noise first.
        boundary: noise level at which the second expert takes over; 0 with one expert.
        image_encoder: whether the transformer reads an image embedding.
        embeds_guidance: whether the transformer reads the guidance scale as an input, as one distilled from
            classifier-free guidance does; there is no second pass then.
        encoders: folders of the models that read prompts and pictures.
        max_positions: the most latent frames, or patches along a side, that the position codes reach.
        settings: the card file.
        prior_rank: LoRA rank of the checkpoint's prior; 0 if it brings none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    pipeline: str
    spatial: Positive
    temporal: Positive
    multiple_px: Positive
    frame_step: Positive
    latent_channels: Positive
    experts: tuple[str, ...]
    boundary: float
    image_encoder: bool
    embeds_guidance: bool = False
    encoders: tuple[str, ...] = ("text_encoder",)
    max_positions: Positive
    settings: CardFile
    prior_rank: Annotated[int, Field(ge=0)]

    def prior(self, expert: str) -> Path:
        """The LoRA file that a fit of this expert may start from."""
        return prior_file(self.folder, expert)

    @property
    def recipe(self) -> Recipe:
        """Defaults for training and sampling."""
        return self.settings.recipe

    def fingerprint(self) -> str:
        """The checkpoint's identity: its text files, and size and spots of each weights file.

        The card file counts by what changes results by itself; the recipe's defaults and the prior do not.
        """
        parts: list[Any] = [self.settings.area_px, self.settings.text_tokens]
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.suffix == ".safetensors" and not name.startswith("prior/"):
                parts += [name, path.stat().st_size, _spots(path)]
            elif path.suffix in {".json", ".model", ".txt"} and path.name != CARD_FILE:
                parts += [name, path.read_bytes()]
        return fingerprint(*parts)


def _spots(path: Path, count: int = 64, length: int = 1 << 16) -> bytes:
    """The head of a file and pieces spread over it up to its end; all of it if it is small."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= count * length:
            return file.read()
        pieces = []
        for index in range(count):
            file.seek((size - length) * index // (count - 1))
            pieces.append(file.read(length))
    return b"".join(pieces)


def resolve_model(model: str) -> Path:
    """The folder of ``nano``, of a path, or of a Hub id (fetched, or found in the Hub's cache).

    Raises:
        ModelError: there is no such folder, and the Hub does not have it or cannot be reached.
    """
    if model == "nano":
        return NANO
    folder = Path(os.path.expanduser(model))  # noqa: PTH111 (Path.expanduser raises for an unknown user)
    if model and folder.is_dir():
        return folder
    if folder.exists() or not HUB_ID.fullmatch(model):
        raise ModelError(
            f"Model '{model}' is not a folder. Give 'nano', a checkpoint folder in diffusers layout, "
            "or a Hub id such as 'Wan-AI/Wan2.1-I2V-14B-480P-Diffusers'."
        )
    return _from_hub(model)


def _from_hub(model: str) -> Path:
    """The small files first, so that a model which is no I2V model is refused before its weights are fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    text = ["*.json", "*.model", "*.txt"]
    try:
        folder = Path(snapshot_download(model, allow_patterns=text))
        _read_configuration(folder)
        return Path(snapshot_download(model, allow_patterns=[*text, "*.safetensors"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"Model '{model}' is not a folder here and could not be fetched from the Hub "
            f"({type(error).__name__}). Check the name and the connection, or give a folder."
        ) from error


def read_card(folder: Path) -> ModelCard:
    """Read and check a checkpoint's configuration, and that all its files are there.

    Raises:
        ModelError: the folder is not an image-to-video checkpoint that takes a mask, or is incomplete.
    """
    card = _read_configuration(folder)
    for name in (*card.experts, "vae", *card.encoders):
        _check_weights(folder / name)
    if not any((folder / "tokenizer").glob("*")):
        raise ModelError(f"'{folder}' has no tokenizer. Fetch the checkpoint again.")
    return card


def _read_configuration(folder: Path) -> ModelCard:
    from loraedit.families.one_mask_cards import ONE_MASK_CARDS

    makers = {"WanImageToVideoPipeline": _wan_card, **ONE_MASK_CARDS}
    index = read_json(folder, "model_index.json")
    pipeline = str(index.get("_class_name"))
    if pipeline not in makers:
        raise ModelError(
            f"'{folder}' holds a {pipeline}, not an image-to-video model. Expected a Wan, HunyuanVideo or LTX I2V "
            f"checkpoint in diffusers layout: {', '.join(makers)}."
        )
    try:
        return makers[pipeline](folder, index)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(
            f"The configuration of '{folder}' is not that of a {pipeline} ({type(error).__name__}: {error}). "
            "Fetch the checkpoint again."
        ) from error


def _wan_card(folder: Path, index: dict[str, Any]) -> ModelCard:
    if index.get("expand_timesteps"):
        raise ModelError(
            f"'{folder}' takes its condition by per-token timesteps (as Wan2.2-TI2V-5B does) and has no mask channels. "
            "Use a Wan I2V checkpoint with mask channels."
        )
    boundary = float(index.get("boundary_ratio") or 0.0)
    names = ("transformer", "transformer_2") if boundary else ("transformer",)  # as diffusers does
    experts = tuple(name for name in names if index.get(name, [None])[0])
    if not experts:
        raise ModelError(f"'{folder / 'model_index.json'}' names no transformer.")
    vae = read_json(folder, "vae/config.json")
    configs = [read_json(folder, f"{name}/config.json") for name in experts]
    read_json(folder, "scheduler/scheduler_config.json")
    latents = int(vae.get("z_dim", 16))
    temporal, spatial = int(vae.get("scale_factor_temporal", 4)), int(vae.get("scale_factor_spatial", 8))
    for name, config in zip(experts, configs, strict=True):
        expected = 2 * latents + temporal
        if config.get("in_channels") != expected:
            raise ModelError(
                f"'{folder / name}' takes {config.get('in_channels')} channels, not {expected} "
                f"(noise {latents}, mask {temporal}, condition {latents}): it is not an image-to-video transformer."
            )
    image_encoder = configs[0].get("image_dim") is not None
    return ModelCard(
        folder=folder,
        pipeline="WanImageToVideoPipeline",
        spatial=spatial,
        temporal=temporal,
        multiple_px=spatial * int(configs[0]["patch_size"][1]),
        frame_step=4,  # AutoencoderKLWan takes frames in chunks of four, whatever its temporal factor
        latent_channels=latents,
        experts=experts,
        boundary=boundary if len(experts) == 2 else 0.0,
        image_encoder=image_encoder,
        encoders=("text_encoder", "image_encoder") if image_encoder else ("text_encoder",),
        max_positions=int(configs[0].get("rope_max_seq_len", 1024)),
        settings=read_card_file(folder, CardFile()),
        prior_rank=max(lora_rank(prior_file(folder, name)) for name in experts),
    )


def prior_file(folder: Path, expert: str) -> Path:
    return folder / "prior" / f"{expert}.safetensors"


def lora_rank(path: Path) -> int:
    """The rank of a LoRA file, from its header; 0 if there is no such file."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, "np") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
        return int(max(shape[0] for name, shape in shapes.items() if "lora_A" in name))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"The prior '{path}' is no LoRA file. Fetch the checkpoint again.") from error


def _check_weights(folder: Path) -> None:
    """All the safetensors files that a component's index names, or at least one."""
    shards = {path.name for path in folder.glob("*.safetensors")}
    for path in folder.glob("*.safetensors.index.json"):
        named = set(read_json(folder, path.name).get("weight_map", {}).values())
        if not named <= shards:
            raise ModelError(f"'{folder}' lacks {sorted(named - shards)[0]}. Fetch the checkpoint again.")
    if not shards:
        raise ModelError(f"'{folder}' has no .safetensors weights. Fetch the checkpoint again.")


def read_card_file(folder: Path, default: CardFile) -> CardFile:
    """The checkpoint's ``loraedit.json``, or the default where there is none."""
    if not (folder / CARD_FILE).exists():
        return default
    try:
        return CardFile.model_validate(read_json(folder, CARD_FILE))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"'{folder / CARD_FILE}' is not valid: {where}: {first['msg']}.") from error


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"'{folder}' is not a checkpoint folder in diffusers layout: it has no {name}. "
            "Expected model_index.json with the folders transformer, vae, text_encoder, tokenizer and scheduler."
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"'{folder / name}' cannot be read as JSON. Fetch the checkpoint again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"'{folder / name}' holds no JSON object. Fetch the checkpoint again.")
    return content
