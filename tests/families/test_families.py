"""Claims about every family but Wan: the mask, the whole edit of a long clip, half precision, memory measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from parity import CPU, KINDS, PROMPT, check_edit, check_half_precision, check_mask_reaches_the_model, encode, moving
from torch import nn

from loraedit.diffusion.samples import Guide, motion_sample
from loraedit.families import open_family
from loraedit.families.base import Family
from loraedit.families.card import read_card
from loraedit.families.encoding import embed_prompt
from loraedit.families.skeleton import open_skeleton
from loraedit.planning.skeleton import build
from loraedit.runtime.memory import tile
from loraedit.settings import Resources


def family_of(others: dict[str, Path], name: str) -> Family:
    return open_family(read_card(others[name]))


@pytest.mark.parametrize("name", KINDS)
def test_the_mask_inside_a_frame_reaches_the_model(others: dict[str, Path], name: str) -> None:
    check_mask_reaches_the_model(family_of(others, name), *KINDS[name].clip)


@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "with gaps"])
@pytest.mark.parametrize("name", ["wan", *KINDS])
def test_sampling_starts_from_no_cell_whose_latents_are_withheld(every: dict[str, Path], name: str, gaps: bool) -> None:
    """A guide that lacks one row of pixels in each token shows nothing to models whose condition is then 0."""
    family, (frames, height, width) = family_of(every, name), KINDS[name].clip if name in KINDS else (9, 32, 48)
    source, mask = moving(frames, height, width), np.ones((frames, height, width), np.bool_)
    trusted = mask.copy()
    trusted[:, :: family.card.multiple_px] = not gaps
    given = motion_sample(source, mask, PROMPT, Guide(source, trusted))
    shown, withholds = family.shown_cells(given), gaps and name in ("hunyuan, channels", "hunyuan 1.5")
    content = encode(family, given).condition[-family.card.latent_channels :]
    assert shown.shape == content[:1].shape and shown[:, :1].all()
    assert shown[:, 1:].any() != withholds
    assert content.abs().amax(0, keepdim=True)[shown].min() > 0
    assert content[:, 1:].any() != withholds


@pytest.mark.parametrize("name", KINDS)
def test_a_long_clip_is_edited_with_lora_references_and_crop(
    others: dict[str, Path], name: str, tmp_path: Path
) -> None:
    check_edit(family_of(others, name), tmp_path / "run")


@pytest.mark.parametrize("name", KINDS)
def test_a_bfloat16_transformer_gives_a_velocity_and_gradients(others: dict[str, Path], name: str) -> None:
    check_half_precision(family_of(others, name), *KINDS[name].clip)


@pytest.mark.parametrize("name", ["wan", *KINDS])
def test_encoders_that_come_layer_by_layer_read_the_same(
    every: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, except that both devices are the CPU."""
    card, resources, placed = read_card(every[name]), Resources(offload_encoders=True), []
    plain = embed_prompt(open_family(card), PROMPT, CPU)

    def place(encoder: nn.Module, given: Resources, device: torch.device) -> None:
        if given.offload_encoders:
            apply_group_offloading(encoder, device, offload_type="leaf_level")
            placed.append(encoder)

    monkeypatch.setattr("loraedit.families.loading.place_encoder", place)
    offloaded = embed_prompt(open_family(card, resources), PROMPT, CPU)
    assert placed and offloaded.keys() == plain.keys()
    assert all(torch.equal(offloaded[field], value) for field, value in plain.items())


def test_no_tile_of_a_vae_is_a_single_row() -> None:
    """LTX-2's decoder mirrors its edges, and its usual tiles would leave one row of cells of 480 pixel rows."""
    with open_skeleton("ltx-2") as card:
        vae: Any = build(card, "vae", torch.float32)
    tile(vae, Resources(tile_vae=True), 480, 832)
    latents = torch.empty(1, 128, 1, 15, 26, device="meta")
    with torch.no_grad():
        assert vae.decode(latents, return_dict=False)[0].shape == (1, 3, 1, 480, 832)
    assert (vae.tile_sample_stride_height, vae.tile_sample_stride_width) == (13 * 32, 14 * 32)
