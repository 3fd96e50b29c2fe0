"""A run without any option for the method does what LoRA-Edit's published code does, number by number.

Everything here is read from what runs really did: what the optimiser was given, what the transformer was called with,
which texts were encoded. Nothing is read from settings, apart from the record in ``settings.json``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import Scene
from tiny import save_tiny_wan

import loraedit
from loraedit.diffusion.flow_matching import flow_matching_loss
from loraedit.diffusion.samples import Sample
from loraedit.families.wan.family import WanFamily
from loraedit.lora.reading import read_lora
from loraedit.sampling.transformers import Transformers
from loraedit.types import Mask

PROMPT, SOURCE_PROMPT = "a blue square", "a red square"
LAYERS = {
    *(f"attn{number}.{name}" for number in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")),
    "ffn.net.0.proj", "ffn.net.2",
}  # fmt: skip


@dataclass
class Course:
    """What happened in a course of training: all arguments of the optimiser, and a row for each of its steps."""

    optimizer: dict[str, Any]
    rates: list[float] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


@dataclass
class Record:
    """What happened in a run."""

    courses: list[Course] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    weights: list[torch.Tensor | None] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)
    passes: list[torch.Tensor] = field(default_factory=list)
    guided: list[tuple[torch.Tensor, list[torch.Tensor]]] = field(default_factory=list)
    first_latents: torch.Tensor | None = None


def watch(patch: pytest.MonkeyPatch) -> Record:
    """Records everything that the method does from now on."""
    record = Record()
    _watch_optimiser(patch, record)
    _watch_model(patch, record)
    _watch_guidance(patch, record)
    return record


def _watch_optimiser(patch: pytest.MonkeyPatch, record: Record) -> None:
    """Records what the optimiser is given, the clipping of gradients, and the weights of the loss."""
    adamw, clip = torch.optim.AdamW, torch.nn.utils.clip_grad_norm_

    class Watched(adamw):  # type: ignore[valid-type, misc]
        def __init__(self, params: Any, *args: Any, **options: Any) -> None:
            super().__init__(params, *args, **options)
            record.courses.append(Course(dict(self.defaults)))

        def step(self, *args: Any, **options: Any) -> Any:
            record.courses[-1].rates += {group["lr"] for group in self.param_groups}
            return super().step(*args, **options)

    def clipped(parameters: Any, max_norm: float) -> Any:
        record.courses[-1].norms.append(max_norm)
        return clip(parameters, max_norm)

    def loss(found: Any, data: Any, noise: Any, weight: Any = None) -> Any:
        record.weights.append(weight)
        return flow_matching_loss(found, data, noise, weight)

    patch.setattr("torch.optim.AdamW", Watched)
    patch.setattr("torch.nn.utils.clip_grad_norm_", clipped)
    patch.setattr("loraedit.training.loop.flow_matching_loss", loss)


def _watch_model(patch: pytest.MonkeyPatch, record: Record) -> None:
    """Records the samples and texts that are encoded, and what the transformer is called with."""
    velocity, clips, read_texts = WanFamily.velocity, WanFamily.clips, WanFamily._texts

    def predicted(family: Any, transformer: Any, latents: Any, timestep: Any, condition: Any) -> Any:
        if torch.is_grad_enabled():
            course = record.courses[-1]
            course.frames.append(latents.shape[2])
            course.batches.append(len(latents))
            course.levels += (timestep / 1000).tolist()
        elif record.first_latents is None:
            record.first_latents = latents[0].clone()
        return velocity(family, transformer, latents, timestep, condition)

    def encoded(family: Any, sample: Any) -> Any:
        record.samples.append(sample)
        return clips(family, sample)

    def texts(family: Any, prompts: Any, *others: Any) -> Any:
        record.texts += prompts
        return read_texts(family, prompts, *others)

    patch.setattr(WanFamily, "velocity", predicted)
    patch.setattr(WanFamily, "clips", encoded)
    patch.setattr(WanFamily, "_texts", texts)


def _watch_guidance(patch: pytest.MonkeyPatch, record: Record) -> None:
    """Records the noise level of each sampling step, its forward passes, and the velocity that comes of them."""
    guided, one_pass = Transformers.velocity, Transformers._pass

    def passed(self: Any, *args: Any) -> Any:
        record.passes.append(one_pass(self, *args))
        return record.passes[-1]

    def sampled(self: Any, latents: Any, timestep: Any, *others: Any) -> Any:
        record.passes.clear()
        record.levels.append(float(timestep) / 1000)
        result = guided(self, latents, timestep, *others)
        record.guided.append((result, list(record.passes)))
        return result

    patch.setattr(Transformers, "_pass", passed)
    patch.setattr(Transformers, "velocity", sampled)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint in the layout of Wan2.1-I2V-14B whose card says nothing about the method."""
    folder = save_tiny_wan(tmp_path_factory.mktemp("models") / "wan21", image_encoder=True)
    (folder / "loraedit.json").write_text(json.dumps({"area_px": 1024, "text_tokens": 8}))
    return folder


@pytest.fixture(scope="module")
def runs(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Record, Path]]:
    """Edits with no, one, two and three references and no option for the method; returns records and run folders."""
    from scenes import make_scene

    scene, place, found = make_scene(), tmp_path_factory.mktemp("runs"), {}
    for count in range(4):
        references = {index: scene.source[index] // 2 for index in range(1, count + 1)}
        with pytest.MonkeyPatch.context() as patch:
            record = watch(patch)
            loraedit.edit(
                scene.source, scene.edited_first, jagged(scene), references=references, model=str(model),
                prompt=PROMPT, source_prompt=SOURCE_PROMPT, run=place / str(count),
                store=str(place / "store"), preview=False,
            )  # fmt: skip
        found[count] = record, place / str(count)
    return found


def jagged(scene: Scene) -> Mask:
    """Returns the scene's mask with a part cut out of each frame, so that its regions are no boxes."""
    mask = scene.mask.copy()
    mask[:, 7:12] = False
    mask[:, 9:12, 20:22] = True
    return mask


def test_settings_json_records_the_papers_recipe(runs: dict[int, tuple[Record, Path]]) -> None:
    recorded = json.loads((runs[0][1] / "settings.json").read_text())["settings"]
    published = {
        "steps": 100, "reference_steps": 100, "reference_training": "joint", "check_every": 0, "batch_size": 1,
        "rank": 16, "lora_targets": "all", "lr": 1e-4, "lr_schedule": "constant", "edit_weight": 1.0,
        "colour_variants": 1, "min_noise_level": 0.0, "prior": False, "trigger": "p3rs0n", "fill": "grey",
        "restore_detail": False, "condition_on_references": False, "blend_latents": False, "strength": 1.0,
        "mask_boxes": True, "area": 1.0, "sampling_steps": 30, "guidance": 5.0, "scheduler": "euler", "flow_shift": 5.0,
        "step_cache": 0.0, "budget": None, "lora": "motion",
    }  # fmt: skip
    assert {name: recorded[name] for name in published} == published
    assert "blurry" in recorded["negative_prompt"]


def test_the_optimiser_is_the_published_one_at_a_constant_rate(runs: dict[int, tuple[Record, Path]]) -> None:
    courses = [course for record, _ in runs.values() for course in record.courses]
    assert len(courses) == 1 + 3
    for course in courses:
        arguments = {name: course.optimizer[name] for name in ("lr", "betas", "weight_decay")}
        assert arguments == {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.01}
        assert set(course.rates) == {1e-4} and set(course.norms) == {1.0} and set(course.batches) == {1}


def test_the_source_is_learnt_in_100_steps_and_references_jointly_in_10_by_1_plus_9n(
    runs: dict[int, tuple[Record, Path]],
) -> None:
    steps = {count: [len(course.rates) for course in record.courses] for count, (record, _) in runs.items()}
    assert steps == {0: [100], 1: [100], 2: [190], 3: [280]}  # with references, the first LoRA is found in the store
    assert set(runs[0][0].courses[0].frames) == {2}  # five frames
    for count in (1, 2, 3):
        (course,) = runs[count][0].courses
        epoch = 1 + 9 * count
        for start in range(0, len(course.frames), epoch):
            assert sorted(course.frames[start : start + epoch]) == [1] * (9 * count) + [2]


def test_the_references_continue_the_lora_of_the_source(runs: dict[int, tuple[Record, Path]]) -> None:
    log = [json.loads(line) for line in (runs[2][1] / "log.jsonl").read_text().splitlines()]
    (trained,) = [event for event in log if event["event"] == "trained"]
    assert trained["start"] == next((runs[0][1] / "lora").glob("motion-*")).stem


def test_noise_levels_are_uniform_and_every_cell_counts_alike(runs: dict[int, tuple[Record, Path]]) -> None:
    levels = np.sort(runs[3][0].courses[0].levels)
    even = (np.arange(len(levels)) + 0.5) / len(levels)
    assert len(levels) == 280 and np.abs(levels - even).max() < 1.63 / math.sqrt(len(levels))  # Kolmogorov, 1 %
    weights = [weight for record, _ in runs.values() for weight in record.weights]
    assert all(weight is None or bool((weight == 1).all()) for weight in weights)


def test_the_lora_has_rank_and_alpha_16_on_the_ten_linear_layers_of_a_block(
    runs: dict[int, tuple[Record, Path]],
) -> None:
    (file,) = (runs[0][1] / "lora").glob("*.safetensors")
    pairs = read_lora(file).layers
    assert {layer.split(".", 2)[2] for layer in pairs} == LAYERS
    for pair in pairs.values():
        assert pair.down.shape[0] == pair.up.shape[1] == 16 and pair.scale == 1.0  # alpha / rank


def test_samples_show_grey_in_boxes_and_the_image_encoder_the_published_frame(
    runs: dict[int, tuple[Record, Path]],
) -> None:
    record, _ = runs[1]
    kinds: dict[bool, list[Sample]] = {True: [], False: []}
    for sample in record.samples:
        kinds[sample.target is None].append(sample)
        assert bool((sample.condition[sample.edit_mask] == 0).all())
        for plane in sample.edit_mask:
            rows, columns = plane.any(1), plane.any(0)
            assert plane.sum() == rows.sum() * columns.sum()  # a box
    (appearance,) = [sample for sample in kinds[False] if len(sample.condition) == 1]
    (inference,) = kinds[True]
    assert appearance.edit_mask[0].any() and not np.array_equal(appearance.image, appearance.target)
    outside = ~appearance.edit_mask
    assert np.array_equal(appearance.image[outside], appearance.condition[outside])
    assert not inference.edit_mask[0].any() and np.array_equal(inference.image, inference.condition[:1])
    (motion,) = [sample for sample in runs[0][0].samples if sample.target is not None]
    assert not motion.edit_mask[0].any() and motion.edit_mask[1:].any((1, 2)).all()
    assert motion.target is not None and np.array_equal(motion.image, motion.target[:1])


def test_the_texts_have_the_trigger_word_and_guidance_a_negative_prompt(runs: dict[int, tuple[Record, Path]]) -> None:
    record, run = runs[0]
    negative = json.loads((run / "settings.json").read_text())["settings"]["negative_prompt"]
    assert set(record.texts) == {f"p3rs0n, {SOURCE_PROMPT}", f"p3rs0n, {PROMPT}", negative}
    assert {sample.prompt for sample in runs[1][0].samples} == {f"p3rs0n, {SOURCE_PROMPT}", f"p3rs0n, {PROMPT}"}


def test_sampling_takes_30_euler_steps_with_shift_5_and_guidance_5_from_noise_alone(
    runs: dict[int, tuple[Record, Path]],
) -> None:
    record, _ = runs[0]
    even = np.linspace(1, 0, 31)[:-1]
    assert record.levels == pytest.approx(5 * even / (1 + 4 * even), abs=1e-6)
    for velocity, (conditional, unconditional) in record.guided:
        assert torch.equal(velocity, unconditional + 5.0 * (conditional - unconditional))
        assert not torch.equal(conditional, unconditional)
    assert record.first_latents is not None
    noise = torch.randn(record.first_latents.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(record.first_latents, noise)


def test_steps_are_eulers(model: Path) -> None:
    from loraedit.families import open_family
    from loraedit.families.card import read_card
    from loraedit.sampling.schedule import make_schedule
    from loraedit.settings import PAPER, make_settings

    family = open_family(read_card(model))
    sampling = make_settings({}).resolved(PAPER).sampling()
    schedule = make_schedule(family, sampling, (4, 2, 4, 4), torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(4, 2, 4, 4, generator=generator)
    for index in range(3):
        velocity = torch.randn(4, 2, 4, 4, generator=generator)
        expected = latents + (schedule.levels[index + 1] - schedule.levels[index]) * velocity
        latents = schedule.step(index, latents, velocity)
        assert torch.allclose(latents, expected, atol=1e-5)
