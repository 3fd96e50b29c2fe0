"""A model family of its own, written without any file of the package: transformer, VAE, card reader and record.

The transformer sees each latent cell by itself, the VAE moves pixels into channels, and a prompt is embedded by its
letters. Nothing here is good at editing; all of it is complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import gelu, pixel_shuffle, pixel_unshuffle
from torch.utils.checkpoint import checkpoint

from loraedit.diffusion.samples import Sample
from loraedit.families import FamilyRecord
from loraedit.families.base import Encoded, EncoderInput, Expert, Fields, mostly_shown
from loraedit.families.folder import read_card_file, read_json
from loraedit.families.model_card import CardFile, ModelCard
from loraedit.masks.packing import pack_keep_mask
from loraedit.settings import LoraTargets, Recipe, Resources, SamplingSettings
from loraedit.storage.files import write_json
from loraedit.types import OnStep, Pixels

CELL = 4
"""Pixels of a latent cell, per side."""
CHANNELS = 3 * CELL**2
TEXT_WIDTH = 8


class ToyBlock(nn.Module):
    """An MLP on each latent cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, cells: Tensor) -> Tensor:
        result: Tensor = cells + self.narrow(gelu(self.widen(cells)))
        return result


class ToyTransformer(ModelMixin, ConfigMixin):
    """Predicts the velocity of each latent cell from noise, condition, mask, timestep and prompt."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, depth: int = 3, width: int = 16) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.proj_in = nn.Linear(2 * CHANNELS + 1, width)
        self.time, self.words = nn.Linear(1, width), nn.Linear(TEXT_WIDTH, width)
        self.layers = nn.ModuleList(ToyBlock(width) for _ in range(depth))
        self.proj_out = nn.Linear(width, CHANNELS)

    def forward(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """``[B, c, f, h, w]`` of ``[B, 2 c + 1, f, h, w]``, ``[B]`` and ``[B, L, D]``."""
        told = self.time(timestep[:, None] / 1000) + self.words(text.mean(1))
        cells = self.proj_in(latents.movedim(1, -1)) + told[:, None, None, None]
        for block in self.layers:
            keeps_little = torch.is_grad_enabled() and self.gradient_checkpointing
            cells = checkpoint(block, cells, use_reentrant=False) if keeps_little else block(cells)
        velocity: Tensor = self.proj_out(cells).movedim(-1, 1)
        return velocity


class ToyVae(ModelMixin, ConfigMixin):
    """Moves each 4x4 square of pixels into the channels of one cell; nothing is lost, and there are no weights."""

    spatial_compression_ratio = CELL

    @register_to_config
    def __init__(self) -> None:
        super().__init__()

    def encode(self, video: Tensor) -> Tensor:
        return pixel_unshuffle(video.movedim(2, 1), CELL).movedim(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        return pixel_shuffle(latents.movedim(2, 1), CELL).movedim(1, 2)


class ToyFamily:
    """See :class:`loraedit.families.base.Family`."""

    def __init__(self, card: ModelCard) -> None:
        self.card, self.resources, self.splits_tokens = card, Resources(), False
        self.experts = (Expert("transformer", 0.0, 1.0),)

    def encoded_shapes(self, latent: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
        text = (self.card.settings.text_tokens, TEXT_WIDTH)
        return {"condition": (1 + CHANNELS, *latent), "target": (CHANNELS, *latent), "text": text}

    def lora_targets(self, which: LoraTargets) -> tuple[str, ...]:
        return ("widen", "narrow") if which == "all" else ("widen",)

    def encoder_inputs(self, prompt: str, pictures: Sequence[Pixels] = ()) -> list[EncoderInput]:  # noqa: ARG002
        return [EncoderInput(prompt)]

    def embed(self, inputs: Sequence[EncoderInput], device: torch.device) -> list[Fields]:  # noqa: ARG002
        return [{"text": self._letters(each.prompt or "")} for each in inputs]

    def _letters(self, prompt: str) -> Tensor:
        letters = torch.tensor([ord(letter) for letter in prompt[: self.card.settings.text_tokens] or " "]).float()
        return torch.cos(letters[:, None] / torch.arange(1, TEXT_WIDTH + 1))

    def clips(self, sample: Sample) -> list[Pixels]:
        return [sample.condition] if sample.target is None else [sample.condition, sample.target]

    def encode_clips(self, clips: Sequence[Pixels], device: torch.device, on_step: OnStep) -> list[Tensor]:  # noqa: ARG002
        latents = [self._latents(clip) for clip in clips]
        on_step(len(clips), len(clips))
        return latents

    def assemble(self, sample: Sample, latents: Sequence[Tensor]) -> Fields:
        condition, *target = latents
        mask = torch.from_numpy(pack_keep_mask(sample.edit_mask, *condition.shape[2:], self.card.temporal))
        return {"condition": torch.cat([mask, condition]), **({"target": target[0]} if target else {})}

    def shown_cells(self, sample: Sample) -> Tensor:
        return mostly_shown(sample, self.card)

    def _latents(self, pixels: Pixels) -> Tensor:
        return self.vae_encode(ToyVae(), torch.from_numpy(pixels).permute(3, 0, 1, 2)[None])[0].clone()

    def decode(self, latents: Tensor, device: torch.device) -> Pixels:  # noqa: ARG002 (it is no work)
        video = self.vae_decode(ToyVae(), latents[None].float())
        return np.asarray(video[0].permute(1, 2, 3, 0).contiguous())

    def vae_encode(self, vae: Any, video: Tensor) -> Tensor:
        latents: Tensor = vae.encode(video)
        return latents

    def vae_decode(self, vae: Any, latents: Tensor) -> Tensor:
        video: Tensor = vae.decode(latents)
        return video

    def run_encoder(self, name: str, encoder: Any) -> None:
        raise AssertionError(f"{name} ({encoder}) is no encoder of this family")

    def load_transformer(self, expert: Expert, device: torch.device) -> nn.Module:  # noqa: ARG002 (float32 everywhere)
        transformer = ToyTransformer.from_pretrained(self.card.folder, subfolder=expert.name)
        return transformer.eval().requires_grad_(False)

    def velocity(self, transformer: Any, latents: Tensor, timestep: Tensor, condition: Encoded) -> Tensor:
        dtype = transformer.dtype
        shown = torch.cat([latents, condition.condition], 1).to(dtype)
        output: Tensor = transformer(shown, timestep.to(dtype), condition.text.to(dtype))
        return output.float()

    def scheduler(self, sampling: SamplingSettings, steps: int, shape: Sequence[int], device: torch.device) -> Any:  # noqa: ARG002
        scheduler = FlowMatchEulerDiscreteScheduler(shift=sampling.flow_shift or 1.0)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=device)
        return scheduler

    def portable_lora_name(self, module: str) -> str:
        return f"diffusion_model.{module}"


def read_toy_card(folder: Path, _index: dict[str, Any], _files: Mapping[str, Path]) -> ModelCard:
    read_json(folder, "transformer/config.json")
    return ModelCard(
        folder=folder, pipeline="ToyPipeline", spatial=CELL, temporal=1, multiple_px=CELL, frame_step=1,
        latent_channels=CHANNELS, experts=("transformer",), components=("transformer",), boundary=0.0, image_frames=0,
        max_positions=1024, settings=read_card_file(folder, CardFile()), prior_rank=0,
    )  # fmt: skip


TOY = FamilyRecord(
    name="toy",
    pipelines=("ToyPipeline",),
    open=ToyFamily,
    read_card=read_toy_card,
    components={"transformer": r"toy_family\.ToyTransformer", "vae": r"toy_family\.ToyVae"},
    libraries={"toy_family": __name__},
    block_counts=("depth",),
)


def save_toy(folder: Path) -> Path:
    """Writes a random checkpoint with a short recipe."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ToyTransformer().save_pretrained(folder / "transformer")
    ToyVae().save_config(folder / "vae")
    parts = {"transformer": ["toy_family", "ToyTransformer"], "vae": ["toy_family", "ToyVae"]}
    write_json(folder / "model_index.json", {"_class_name": "ToyPipeline", **parts})
    recipe = Recipe(steps=4, rank=2, lr=1e-2, sampling_steps=2, guidance=1.0)
    write_json(folder / "loraedit.json", {"area_px": 1024, "text_tokens": 8, "recipe": recipe.model_dump()})
    return folder
