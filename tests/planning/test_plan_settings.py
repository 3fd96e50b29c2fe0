"""The settings that are marked as changing a plan can do so or have it refused, and the others cannot."""

from __future__ import annotations

from typing import Any

import pytest
from scenes import make_scene

from loraedit.errors import LoraEditError
from loraedit.families.skeleton import open_skeleton
from loraedit.job.model import single_files
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.planning import parse_vram, work_of_job
from loraedit.settings import EditSettings, Resources, affects_plan, make_settings

A14B, TOKENS = "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"
REFERENCES = {8: (60, 40, 220), 9: (60, 60, 220)}

CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "fit": (True, {"model": A14B}), "tracker": ("sam2", {}), "tracker_model": ("nowhere", {}), "dilate_px": (20, {}),
    "model": ("nano", {}), "transformer": ("none.gguf", {}), "transformer_2": ("none.gguf", {}),
    "extra_lora": (("none.safetensors",), {}), "extra_in_training": (True, {}),
    "recipe": ("fast", {}), "lora": ("none", {}), "budget": ("5steps", {}), "device": ("gpu", {}), "vram": ("9", {}),
    "weights": ("fp8", {}), "checkpointing": (False, {}), "offload_checkpoints": (True, {}),
    "swap_blocks": (2, {}), "offload_encoders": (True, {}), "reload_weights": (True, {}), "tile_vae": (True, {}),
    "margin": (1.0, {}),
    "mask_boxes": (False, {"crop": "fixed", "quality": "full"}), "steps": (7, {}), "reference_steps": (7, {}),
    "reference_training": ("sequential", {}), "check_every": (5, {}), "batch_size": (2, {}), "rank": (2, {}),
    "lora_targets": ("attention", {}), "colour_variants": (3, {}), "min_noise_level": (0.95, {}), "prior": (True, {}),
    "fill": ("carry", {}), "condition_on_references": (True, {"model": TOKENS}), "area": (0.5, {"quality": "full"}),
    "quality": ("full", {}),
    "crop": ("off", {}), "context": (1.0, {"crop": "fixed"}), "segment_frames": (9, {}),
    "sampling_steps": (3, {}), "guidance": (1.0, {}), "scheduler": ("euler", {"sampling_steps": 2, "flow_shift": 8.99}),
    "flow_shift": (50.0, {"sampling_steps": 2}), "distilled_steps": (4, {}), "preview_every": (3, {}),
    "restore_detail": (True, {"fill": "carry"}),
}  # fmt: skip
"""A value of each setting, and the settings beside which it matters."""

NO_CHANGES: dict[str, Any] = {
    "prompt": "a coat", "source_prompt": "a coat", "trigger": "sks", "feather_px": 5,
    "patience": 9, "min_gain": 0.5, "lr": 1e-3,
    "lr_schedule": "falling", "edit_weight": 2.0, "train_seed": 3, "seed": 3, "step_cache": 0.1,
    "negative_prompt": "rain", "strength": 0.5, "blend_latents": True,
    "match_colours": False, "attention": "native", "training_attention": "native",
    "compile_blocks": True, "codec": "png", "preview": False, "profile": True, "store": "none",
    "download": True,
}  # fmt: skip
NOT_READ = {"captioner", "flow_estimator"}
"""They name files or code that a plan does not look at."""


def outcome(name: str, beside: dict[str, Any], **asked: Any) -> Any:
    """Returns what a plan is made from, or why it is refused."""
    scene = make_scene(12, 96, 128)
    references = {}
    for index, colour in REFERENCES.items():
        references[index] = scene.source[index].copy()
        references[index][10:22, 8 + 2 * index : 20 + 2 * index] = colour
    first = scene.edited_first[:48, :64] if name == "fit" else scene.edited_first
    settings = make_settings({"model": A14B, **beside, **asked})
    mask = None if name in ("margin", "tracker", "tracker_model") else scene.mask
    try:
        with open_skeleton(settings.model, single_files(settings)) as card:
            job = prepare(EditRequest(scene.source, first, mask, references, settings=settings), card=card)
            work = work_of_job(job)
            training = work.train.model_dump(include={"rank", "lora_targets", "batch_size", "steps"})
            resources = job.settings.resources(Resources(checkpointing=True))
            memory = resources.model_dump(exclude={"attention", "training_attention", "compile_blocks"})
            samples = work.samples, work.reference_samples, work.encodings.decoded
            steps = (work.uses, work.passes, work.may_stop_early, *samples)
            return work.shape, training, memory, steps, parse_vram(job.settings.vram, None), job.settings.model
    except LoraEditError as error:
        return str(error)


@pytest.mark.parametrize("name", CHANGES)
def test_a_marked_setting_changes_the_plan_or_has_it_refused(name: str) -> None:
    value, beside = CHANGES[name]
    assert outcome(name, beside, **{name: value}) != outcome(name, beside)


@pytest.mark.parametrize("name", NO_CHANGES)
def test_another_setting_changes_nothing_in_a_plan(name: str) -> None:
    carried = {"fill": "carry"}
    assert outcome(name, carried, **{name: NO_CHANGES[name]}) == outcome(name, carried)


def test_every_setting_is_accounted_for() -> None:
    assert set(CHANGES) == {name for name in EditSettings.model_fields if affects_plan(name)}
    assert set(CHANGES) | set(NO_CHANGES) | NOT_READ == set(EditSettings.model_fields)
