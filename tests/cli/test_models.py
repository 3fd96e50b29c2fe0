"""Every known model: its size, an edit with it in small, and what `loraedit models` says of it."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from parity import check_edit
from scenes import Scene
from tiny import distinct_models
from tiny_cards import CARRYING
from typer.testing import CliRunner

import loraedit
from loraedit.cli.main import app
from loraedit.diffusion.samples import inference_condition, motion_sample
from loraedit.errors import InputError, ModelError
from loraedit.families import known, open_family
from loraedit.families.base import batch
from loraedit.families.card import read_card
from loraedit.families.encoding import encode
from loraedit.families.hub import resolve_model
from loraedit.families.known import Component, KnownModel, known_model, known_models, known_names, usual_settings
from loraedit.families.model_card import CARD_FILE
from loraedit.families.registry import record_of
from loraedit.families.skeleton import open_skeleton
from loraedit.families.wan.tensors import check_shapes
from loraedit.masks.packing import pack_token_mask
from loraedit.sampling.schedule import make_schedule
from loraedit.settings import PAPER, SamplingSettings, make_settings
from loraedit.types import Pixels

CPU = torch.device("cpu")
TOKENS = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"
TABLE = json.loads((Path(known.__file__).with_name("known_models.json")).read_text())
PARTS = {name: Component.model_validate(part) for name, part in TABLE["components"].items()}

PUBLISHED_GIGABYTES = {
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": (32.8, "wan2.1_i2v_480p_14B_bf16"),
    "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers": (32.8, "wan2.1_flf2v_720p_14B_fp16"),
    "alibaba-pai/Wan2.1-Fun-1.3B-InP": (3.13, "wan2.1_fun_inp_1.3B_bf16"),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": (28.6, "half of the 57.2 GB in float32 of high_noise_model"),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": (10.0, "twice the 5 GB of wan2.2_ti2v_5B_fp8"),
    "hunyuanvideo-community/HunyuanVideo-I2V-33ch": (25.6, "hunyuan_video_image_to_video_720p_bf16"),
    "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v": (16.6, "hunyuanvideo1.5_480p_i2v_fp16"),
    "Lightricks/LTX-Video-0.9.7-dev": (28.6, "ltxv-13b-0.9.7-dev, which has the VAE too"),
}
"""Sizes of published transformers at two bytes a parameter, as their pages state them."""


def build(part: Component) -> torch.nn.Module:
    with torch.device("meta"):
        if hasattr(diffusers, part.kind):
            model: torch.nn.Module = getattr(diffusers, part.kind).from_config(part.config)
            return model
        if part.kind == "LTX2TextConnectors":
            return LTX2TextConnectors(**part.config)
        kind = getattr(transformers, part.kind)
        return kind(kind.config_class(**part.config))


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_a_component_of_the_published_size_has_the_stated_parameters(part: Component) -> None:
    model = build(part)
    assert sum(parameter.numel() for parameter in model.parameters()) == part.parameters
    if part.kind == "AutoencoderKLWan":  # a plan normalises fake latents by them
        assert len(model.config.latents_mean) == len(model.config.latents_std) == model.config.z_dim
    if (
        part.kind in ("WanTransformer3DModel", "SkyReelsV2Transformer3DModel")
        and "patch_embedding.weight" in model.state_dict()
    ):
        check_shapes({name: tuple(value.shape) for name, value in model.state_dict().items()}, part.config, part.kind)


@pytest.mark.parametrize(("name", "published"), PUBLISHED_GIGABYTES.items())
def test_the_stated_parameters_fill_the_published_files(name: str, published: tuple[float, str]) -> None:
    known = known_model(name)
    assert known is not None
    parts = ["transformer", "vae"] if "VAE too" in published[1] else ["transformer"]
    assert sum(known.components[part].parameters for part in parts) * 2 / 1e9 == pytest.approx(published[0], rel=0.005)


@pytest.mark.parametrize(
    "known",
    [known for known in distinct_models() if known.name != "Wan2.1 I2V 14B 720P"],  # the 480P one with another shift
    ids=lambda known: known.name,
)
def test_a_long_clip_is_edited_with_references_and_a_window(
    published: dict[str, Path], known: KnownModel, tmp_path: Path
) -> None:
    check_edit(open_family(read_card(published[known.id])), tmp_path / "run")


@pytest.mark.parametrize(("place", "area"), [("x", 832 * 480), ("Wan2.1-I2V-14B-720P-Diffusers", 1280 * 720)])
def test_without_a_card_file_the_published_size_holds(place: str, area: int) -> None:
    known = known_model("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers")
    assert known is not None
    settings = usual_settings(known.id, known.pipeline, known.transformer.config, Path("/models") / place)
    assert settings.area_px == area


# ---- sampling ------------------------------------------------------------------------------------------------------

SAMPLING = {  # guidance, flow shift (0 is the checkpoint's own schedule), steps, frames per second
    "wan2.1-i2v-14b-480p": (5.0, 5.0, 30, 16),
    "wan2.1-i2v-14b-720p": (5.0, 5.0, 30, 16),
    "wan2.1-flf2v-14b-720p": (5.0, 16.0, 50, 16),
    "wan2.1-fun-1.3b-inp": (6.0, 5.0, 50, 16),
    "wan2.1-fun-14b-inp": (6.0, 5.0, 50, 16),
    "skyreels-v2-i2v-1.3b-540p": (5.0, 5.0, 50, 24),
    "skyreels-v2-i2v-14b-540p": (5.0, 5.0, 50, 24),
    "skyreels-v2-i2v-14b-720p": (5.0, 5.0, 50, 24),
    "wan2.2-i2v-a14b": (3.5, 3.0, 40, 16),
    "wan2.2-ti2v-5b": (5.0, 5.0, 50, 24),
    "hunyuanvideo-i2v": (6.0, 7.0, 50, 24),
    "hunyuanvideo-i2v-33ch": (1.0, 7.0, 50, 24),
    "hunyuanvideo-1.5-diffusers-480p_i2v": (6.0, 5.0, 50, 24),
    "ltx-video-0.9.5": (3.0, 0.0, 40, 25),
    "ltx-video-0.9.7-dev": (5.0, 0.0, 30, 30),
    "ltx-2": (4.0, 0.0, 40, 24),
}


@pytest.mark.parametrize("name", known_names())
def test_a_known_model_is_sampled_as_its_authors_publish(name: str) -> None:
    with open_skeleton(name) as card:
        recipe, family = card.recipe, open_family(card)
        rate = card.settings.frame_rate
        assert (recipe.guidance, recipe.flow_shift, recipe.sampling_steps, rate) == SAMPLING[name]
        assert card.settings.source.startswith("https://")
        if recipe.flow_shift:
            sampling = make_settings({}).resolved(recipe).sampling()
            scheduler = family.scheduler(sampling, recipe.sampling_steps, (card.latent_channels, 3, 8, 8), CPU)
            plain = 1 - np.arange(recipe.sampling_steps) / recipe.sampling_steps
            shifted = recipe.flow_shift * plain / (1 + (recipe.flow_shift - 1) * plain)
            assert np.abs(scheduler.sigmas[:-1].numpy() - shifted).max() < 0.02
            assert isinstance(scheduler, diffusers.UniPCMultistepScheduler) == (recipe.scheduler == "model") & (
                record_of(card.pipeline).name == "wan"
            )


def test_the_papers_own_models_get_the_papers_recipe_exactly() -> None:
    for name in ("wan2.1-i2v-14b-480p", "wan2.1-i2v-14b-720p"):
        with open_skeleton(name) as card:
            assert card.recipe == PAPER and not card.recipe.model_fields_set


def test_a_single_file_is_known_by_its_own_path_first() -> None:
    known = known_model("alibaba-pai/Wan2.1-Fun-14B-InP")
    assert known is not None
    folder = Path("/models/Wan2.1-I2V-14B-480P-Diffusers")
    file = Path("/models/Wan2.1-Fun-14B-InP/diffusion_pytorch_model.safetensors")
    arguments = known.id, known.pipeline, known.transformer.config
    assert usual_settings(*arguments, file, folder).recipe.guidance == 6.0
    assert not usual_settings(*arguments, folder, file).recipe.model_fields_set


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("hunyuan, channels", (1.0, 7.0, 50, 256)),
        ("hunyuan, tokens", (6.0, 7.0, 50, 256)),
        ("ltx", (3.0, 0.0, 40, 256)),
        ("ltx 2", (4.0, 0.0, 40, 1024)),
    ],
)
def test_a_checkpoint_that_is_no_known_model_gets_values_of_its_family(
    others: dict[str, Path], tmp_path: Path, kind: str, expected: tuple[float, ...]
) -> None:
    folder = shutil.copytree(others[kind], tmp_path / "model")
    (folder / CARD_FILE).unlink()
    settings = read_card(folder).settings
    recipe = settings.recipe
    assert (recipe.guidance, recipe.flow_shift, recipe.sampling_steps, settings.text_tokens) == expected
    assert recipe.scheduler == "model" and settings.source == ""
    (folder / CARD_FILE).write_text(json.dumps({"area_px": 4096, "recipe": {"steps": 7, "guidance": 2.0}}))
    changed = read_card(folder).settings
    assert (changed.area_px, changed.text_tokens) == (4096, settings.text_tokens)
    assert changed.recipe == recipe.model_copy(update={"steps": 7, "guidance": 2.0})


def test_the_guider_of_a_checkpoint_goes_before_the_published_guidance(others: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(others["hunyuan 1.5"], tmp_path / "model")
    (folder / CARD_FILE).unlink()
    guider = folder / "guider/guider_config.json"
    guider.write_text(json.dumps({**json.loads(guider.read_text()), "guidance_scale": 4.5}))
    assert read_card(folder).recipe.guidance == 4.5
    guider.unlink()
    recipe = read_card(folder).recipe
    assert (recipe.guidance, recipe.sampling_steps, recipe.negative_prompt) == (6.0, 50, "")


# ---- masks by tokens -----------------------------------------------------------------------------------------------


def test_a_token_is_kept_only_if_nothing_in_it_is_edited() -> None:
    mask = np.zeros((9, 64, 64), bool)
    mask[6, 40, 10] = True
    keep = pack_token_mask(mask, 4, 4, temporal_factor=4, patch=2)
    expected = np.ones((1, 3, 4, 4), np.float32)
    expected[0, 2, 2:, :2] = 0
    assert np.array_equal(keep, expected)


def moving(frames: int = 5) -> Pixels:
    return np.random.default_rng(0).uniform(-1, 1, (frames, 64, 64, 3)).astype(np.float32)


def test_kept_tokens_are_clean_at_timestep_0_and_the_others_noise(published: dict[str, Path]) -> None:
    family = open_family(read_card(published[TOKENS]))
    source, mask = moving(), np.zeros((5, 64, 64), bool)
    mask[:, :32, :32] = True
    encoded = encode(family, [motion_sample(source, mask, "")], CPU)[0]
    latents = torch.randn(1, 48, 2, 4, 4)
    seen = {}

    def transformer(**given: torch.Tensor) -> tuple[torch.Tensor]:
        seen.update(given)
        return (given["hidden_states"],)

    transformer.dtype = torch.float32  # type: ignore[attr-defined]
    family.velocity(transformer, latents, torch.tensor([700.0]), batch([encoded]))  # type: ignore[arg-type]
    assert seen["timestep"].tolist() == [[0, 0, 0, 0, 700, 0, 0, 0]]
    hidden, shown = seen["hidden_states"][0], encoded.condition[1:]
    assert torch.equal(hidden[:, 0], shown[:, 0])
    assert torch.equal(hidden[:, 1, :2, :2], latents[0, :, 1, :2, :2])
    assert torch.equal(hidden[:, 1, 2:], shown[:, 1, 2:])


def test_what_a_token_model_cannot_be_shown_is_refused(published: dict[str, Path], scene: Scene) -> None:
    def edit(**settings: object) -> None:
        loraedit.edit(scene.source, scene.edited_first, scene.mask, model=str(published[TOKENS]), **settings)

    with pytest.raises(InputError, match="Leave --condition-on-references out"):
        edit(condition_on_references=True, references={4: scene.edited_first})
    with pytest.raises(InputError, match="Give --strength below 1"):
        edit(fill="carry", strength=1.0)


@pytest.mark.usefixtures("coarse_flow")
@pytest.mark.parametrize("lora", ["motion", "naive", "none"])
def test_the_default_method_runs_on_every_family(every: dict[str, Path], lora: str, scene: Scene) -> None:
    for name, folder in every.items():
        asked = {**CARRYING, "lora": lora, "steps": 1, "sampling_steps": 2}
        made = loraedit.edit(scene.source, scene.edited_first, scene.mask, model=str(folder), **asked)
        assert made.outside_exact, name
        assert len(made.losses) == (lora != "none"), name


@pytest.mark.parametrize("name", ["nano", *known_names()])
def test_so_many_sampling_steps_are_taken_from_noise_to_the_data(name: str) -> None:
    with open_skeleton(name) as card:
        family = open_family(card)
        for steps in (1, 3, 20):
            sampling = SamplingSettings(sampling_steps=steps, guidance=1.0)
            schedule = make_schedule(family, sampling, (card.latent_channels, 3, 8, 8), CPU)
            *levels, last = schedule.levels
            assert len(levels) == len(schedule.timesteps) == steps and last == 0.0
            assert levels[0] > 0.99
            assert all(one > other > 0.0 for one, other in pairwise(levels))


@pytest.mark.usefixtures("coarse_flow")
def test_a_token_model_starts_from_what_is_carried_by_default(published: dict[str, Path], scene: Scene) -> None:
    made, other = (
        loraedit.edit(
            scene.source, scene.edited_first, scene.mask, model=str(published[TOKENS]),
            **{**CARRYING, "steps": 1, "sampling_steps": 12, "restore_detail": False, **settings},
        )
        for settings in ({}, {"strength": 0.6})
    )  # fmt: skip
    assert made.outside_exact
    assert not np.array_equal(made.clip.frames, other.clip.frames)


def test_a_first_last_frame_model_reads_both_ends_of_the_condition(published: dict[str, Path]) -> None:
    name = next(name for name in published if "FLF2V" in name)
    family = open_family(read_card(published[name]))
    source, everything = moving(), np.ones((5, 64, 64), bool)
    conditions = [
        inference_condition(source, source[:1], everything, "", fixed_frames={4: last})
        for last in (source[4:], source[3:4])
    ]
    images = [encoded.image for encoded in encode(family, conditions, CPU)]
    assert images[0] is not None and images[1] is not None
    assert images[0].shape == (10, 16)
    assert torch.equal(images[0][:5], images[1][:5])
    assert not torch.equal(images[0][5:], images[1][5:])


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_models_command_says_what_there_is_and_what_is_here(published: dict[str, Path], tmp_path: Path) -> None:
    broken = shutil.copytree(published[TOKENS], tmp_path / "broken")
    (broken / "vae/config.json").unlink()
    result = CliRunner().invoke(app, ["models", str(tmp_path), "--json"])
    answer = json.loads(result.stdout)
    assert [row["id"] for row in answer["models"]] == [model.id for model in known_models()]
    row = next(row for row in answer["models"] if "A14B" in row["id"])
    assert row["sampling"] == {"guidance": 3.5, "flow_shift": 3.0, "sampling_steps": 40, "scheduler": "model"}
    assert row["frame_rate"] == 16 and "wan_i2v_A14B.py" in row["source"]
    assert [Path(each["folder"]).name for each in answer["folders"]] == ["nano", "broken"]
    assert answer["folders"][0]["problem"] is None
    assert "no vae/config.json" in answer["folders"][1]["problem"]
    table = CliRunner().invoke(app, ["models"]).stdout
    assert all(model.id in table and model.licence in table for model in known_models())


def test_a_model_in_the_hubs_cache_is_found_and_nothing_is_asked(
    published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "models--Wan-AI--Wan2.2-TI2V-5B-Diffusers"
    shutil.copytree(published[TOKENS], home / "snapshots/abc")
    (home / "refs").mkdir()
    (home / "refs/main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = resolve_model(TOKENS)
    assert folder == home / "snapshots/abc"
    assert read_card(folder).mask == "tokens"


def test_a_model_that_is_one_file_says_how_to_use_it() -> None:
    with pytest.raises(ModelError, match=r"give it as --transformer together with a Wan2\.1 I2V model as --model"):
        resolve_model("alibaba-pai/Wan2.1-Fun-1.3B-InP")


def test_the_page_of_models_is_up_to_date(tmp_path: Path) -> None:
    from scripts.models_page import PAGE, write

    page = Path(shutil.copy(PAGE, tmp_path / "models.md"))
    write(page)
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
