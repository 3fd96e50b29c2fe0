"""Reads the model cards of Wan checkpoints: Wan2.1 and 2.2 image-to-video, first-last-frame, Fun-InP, SkyReels-V2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loraedit.errors import ModelError
from loraedit.families.file_kinds import weight_kinds
from loraedit.families.folder import AGAIN, Shapes, file_shapes, lora_rank, read_card_file, read_json
from loraedit.families.known import usual_settings
from loraedit.families.model_card import ModelCard, SingleFile, prior_file
from loraedit.families.wan.tensors import check_shapes, config_of, tensor_name

__all__ = ["check_wan_transformer", "read_wan_card"]

PAPER_MODEL = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
"""The model of the paper, whose recipe every other checkpoint gets."""


def read_wan_card(folder: Path, index: dict[str, Any], files: Mapping[str, Path]) -> ModelCard:
    """Reads the card of a checkpoint.

    Args:
        folder: the checkpoint.
        index: the content of ``model_index.json``.
        files: single files in place of transformer folders, by expert.

    Raises:
        ModelError: the checkpoint is not an image-to-video model.
    """
    tokens, named = bool(index.get("expand_timesteps")), str(index["_class_name"])
    if named == "WanPipeline" and not tokens:  # only Wan2.2-TI2V-5B is published under its text-to-video class
        raise ModelError(f"'{folder}' holds a WanPipeline, not an image-to-video model. Expected a Wan I2V checkpoint.")
    experts, boundary = _experts(folder, index)
    unknown = sorted(files.keys() - set(experts))
    if unknown:
        raise ModelError(f"'{folder}' has no {unknown[0]} that a file could replace; it has {' and '.join(experts)}.")
    vae = read_json(folder, "vae/config.json")
    configs, single = {}, {}
    for name in experts:
        configs[name] = _base_config(folder, name, name in files)
        if name in files:
            shapes = _renamed(file_shapes(files[name]))
            kinds = weight_kinds(files[name], tensor_name)
            configs[name] = config_of(shapes, configs[name], str(files[name]))
            single[name] = SingleFile(path=files[name], config=configs[name], shapes=shapes, kinds=kinds)
    read_json(folder, "scheduler/scheduler_config.json")
    latents = int(vae.get("z_dim", 16))
    temporal, spatial = _factors(folder, vae)
    for name, config in configs.items():
        _check_channels(folder / name if name not in files else files[name], config, latents, temporal, tokens)
    first = configs[experts[0]]
    reads_images = first.get("image_dim") is not None
    if reads_images and not (index.get("image_encoder") or [None])[0]:
        raise ModelError(f"'{folder}' has no image encoder, which its transformer needs. Use a folder that has one.")
    pipeline = "WanImageToVideoPipeline" if named == "WanPipeline" else named
    return ModelCard(
        folder=folder,
        pipeline=pipeline,
        spatial=spatial,
        temporal=temporal,
        multiple_px=spatial * int(first["patch_size"][1]),
        frame_step=4,  # AutoencoderKLWan takes frames in chunks of four, whatever its temporal factor
        latent_channels=latents,
        mask="tokens" if tokens else "channels",
        experts=experts,
        components=(*experts, "vae", "text_encoder", *(["image_encoder"] if reads_images else [])),
        boundary=boundary,
        image_frames=0 if not reads_images else 2 if first.get("pos_embed_seq_len") else 1,
        max_positions=int(first.get("rope_max_seq_len", 1024)),
        settings=read_card_file(folder, usual_settings(PAPER_MODEL, pipeline, first, *files.values(), folder)),
        prior_rank=max(lora_rank(prior_file(folder, name)) for name in experts),
        files=single,
    )


def _factors(folder: Path, vae: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the factors by which the VAE reduces frames and sides, after comparing them with its levels."""
    temporal, spatial = int(vae.get("scale_factor_temporal", 4)), int(vae.get("scale_factor_spatial", 8))
    patch, levels = vae.get("patch_size"), vae.get("dim_mult", [1, 2, 4, 4])
    halved = vae.get("temperal_downsample", [False, True, True])
    computed = 2 ** sum(map(bool, halved)), (1 if patch is None else int(patch)) * 2 ** (len(levels) - 1)
    if computed != (temporal, spatial):
        factors = f"{computed[0]} and {computed[1]}, but says {temporal} and {spatial}"
        raise ModelError(f"'{folder / 'vae'}' reduces frames and sides by {factors}. {AGAIN}")
    return temporal, spatial


def check_wan_transformer(card: ModelCard, expert: str, shapes: Shapes) -> None:
    """Checks that the tensors in an expert's folder are those of its configuration.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    check_shapes(_renamed(shapes), read_json(card.folder, f"{expert}/config.json"), str(card.folder / expert))


def _experts(folder: Path, index: Mapping[str, Any]) -> tuple[tuple[str, ...], float]:
    """Returns the transformers, and the noise level at which the second takes over; 0 with one transformer."""
    boundary = float(index.get("boundary_ratio") or 0.0)
    names = ("transformer", "transformer_2") if boundary else ("transformer",)  # as diffusers does
    experts = tuple(name for name in names if index.get(name, [None])[0])
    if not experts:
        raise ModelError(f"'{folder / 'model_index.json'}' names no transformer.")
    return experts, boundary if len(experts) == 2 else 0.0


def _base_config(folder: Path, name: str, replaced: bool) -> dict[str, Any]:
    """Returns the configuration of a transformer; a transformer that a file replaces needs none."""
    if replaced and not (folder / name / "config.json").exists():
        return {}
    config = read_json(folder, f"{name}/config.json")
    if config.get("inject_sample_info") or config.get("num_frame_per_block", 1) != 1:
        raise ModelError(f"'{folder / name}' is a diffusion-forcing model. Use the I2V model of the same series.")
    return config


def _check_channels(where: Path, config: Mapping[str, Any], latents: int, temporal: int, tokens: bool) -> None:
    """Checks the number of the transformer's input channels."""
    channels, expected = config.get("in_channels"), latents if tokens else 2 * latents + temporal
    if channels != expected:
        parts = "noise alone" if tokens else f"noise {latents}, mask {temporal}, condition {latents}"
        raise ModelError(
            f"'{where}' takes {channels} channels, not {expected} ({parts}): "
            "it is not an image-to-video transformer for this folder."
        )


def _renamed(shapes: Shapes) -> Shapes:
    """Returns the shapes by diffusers' names, without the factors of fp8 weights."""
    return {new: shape for name, shape in shapes.items() if (new := tensor_name(name)) is not None}
