"""Trains a prior: the LoRA from which the training of every edit starts.

A base model does not read masks inside a frame. How to read one, and how to use what is shown inside it, is the same
for every clip. So it is learned once, over many procedural edits whose true answer is known: from the edited first
frame, the source around the mask and the carried first frame inside it, make the edited clip. The result lies in
``FOLDER/prior``, one LoRA for each transformer. The training is the package's own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from loraedit.diffusion.samples import Guide, Sample, inference_condition
from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.card import read_card
from loraedit.families.encoding import encode
from loraedit.lora.adapter import save_lora
from loraedit.masks.shaping import box_regions, dilate
from loraedit.propagation.carry import TRUSTED, carry_edits
from loraedit.propagation.paths import PROPAGATION_FLOW
from loraedit.runtime.devices import training_precision
from loraedit.settings import Resources, TrainSettings
from loraedit.storage.files import save_tensors, write_json
from loraedit.training import Stage, train
from loraedit.types import Frames, Mask, Weights
from loraedit.video.scaling import to_float
from pretrain.checkpoints import append_log
from pretrain.clips import Source
from pretrain.config import PriorPlan
from pretrain.render.captions import captions
from pretrain.render.compose import render
from pretrain.render.dice import Dice
from pretrain.render.edits import EDITS, edited_twin
from pretrain.render.scene import Mix, Studio, draw_scene
from pretrain.schedule import Budget

__all__ = ["edits", "train_prior"]

EDIT_KEY, SAMPLE_KEY = 41, 43
CHUNK = 48
"""Edits in a file."""
GROUP = 16
"""Scenes that are drawn in one go; all of them get the same kind of edit."""
GREY_SHARE = 0.25
"""Share of the samples that show nothing inside the mask, as in the paper."""
PLAIN_SHARE = 0.15
"""Share of the samples that are no edit at all, but the source itself, as in the training on a clip."""
MAKING_SHARE = 0.4
"""Share of a time budget that goes into making edits."""


@dataclass(frozen=True)
class Edit:
    """An edit with its true answer: uint8 clips ``[F, H, W, 3]``, a loose mask, and a caption of the truth."""

    source: Frames
    truth: Frames
    mask: Mask
    caption: str


# ---- edits with a known answer -----------------------------------------------------------------------------------


def loose_mask(rng: np.random.Generator, visible: Weights) -> Mask:
    """Returns a mask as users draw them: boxes, or the outline grown by a few pixels."""
    tight = visible > 0.02
    return box_regions(tight, 0.1) if rng.random() < 0.5 else dilate(tight, float(rng.uniform(2, 8)))


def draw_edits(source: Source, key: tuple[int, ...], size: tuple[int, int, int]) -> list[Edit]:
    """Draws a group of scenes and their edited twins, without those whose object is too small, too large or hidden."""
    dice, (frames, height, width) = Dice(source.device, *key), size
    studio = Studio(dice, source.photos, Mix(), frames, height, width)
    scene = draw_scene(studio, GROUP)
    kind = [*EDITS, None][int(dice.pick([(1 - PLAIN_SHARE) / len(EDITS)] * len(EDITS) + [PLAIN_SHARE], 1))]
    twin = scene if kind is None else edited_twin(studio, scene, kind)
    before, after = (render(Dice(source.device, *key, 1), each, height, width) for each in (scene, twin))
    visible = torch.maximum(before.visible, after.visible).cpu().numpy()
    clips = [each.frames.permute(0, 2, 3, 4, 1).cpu().numpy() for each in (before, after)]
    rng, found = np.random.default_rng((SAMPLE_KEY, *key)), []
    for row, caption in enumerate(captions(twin)):
        mask = loose_mask(rng, visible[row])
        if mask[0].mean() > 0.02 and mask.mean() < 0.75 and mask.any((1, 2)).all():
            found.append(Edit(clips[0][row], clips[1][row], mask, caption))
    return found


def with_carried(edit: Edit, keyframes: tuple[int, ...]) -> dict[str, Tensor]:
    """Returns an edit as tensors, with its keyframes carried by the package's own propagation."""
    flow = replace(PROPAGATION_FLOW, min_side_px=2 * min(edit.source.shape[1:3]))
    carried = carry_edits(edit.source, {key: edit.truth[key] for key in keyframes}, flow=flow)
    caption = np.frombuffer(edit.caption.encode()[:256].ljust(256), np.uint8).copy()
    arrays = {
        "source": edit.source, "truth": edit.truth, "mask": edit.mask, "carried": carried.frames,
        "trust": np.rint(carried.trust * 255).astype(np.uint8), "caption": caption,
    }  # fmt: skip
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def make_chunk(source: Source, number: int, size: tuple[int, int, int]) -> list[dict[str, Tensor]]:
    """Makes the edits of one file; they depend on its number and their size alone."""
    found: list[Edit] = []
    group = 0
    while len(found) < CHUNK:
        found += draw_edits(source, (EDIT_KEY, number, group), size)
        group += 1
    rng = np.random.default_rng((EDIT_KEY, number))
    keyframes = [(0, size[0] - 1) if rng.random() < 0.2 else (0,) for _ in range(CHUNK)]
    workers = torch.get_num_threads() if source.device.type == "cpu" else os.cpu_count()
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(with_carried, found[:CHUNK], keyframes))


def edits(source: Source, work: Path, plan: PriorPlan, until: float | None = None) -> Iterator[dict[str, Tensor]]:
    """Yields all edits, from disk in chunks or made now.

    Args:
        until: the time on ``time.monotonic`` after which no further chunk is made.
    """
    name = "x".join(map(str, plan.size))
    for start in range(0, plan.edits, CHUNK):
        path = work / "edits" / f"{name}-{start:06d}.safetensors"
        if not path.exists():
            if start and until is not None and time.monotonic() > until:
                return
            rows = make_chunk(source, start // CHUNK, plan.size)
            save_tensors(path, {name: torch.stack([row[name] for row in rows]) for name in rows[0]})
        chunk = load_file(path)
        for row in range(min(CHUNK, plan.edits - start)):
            yield {name: values[row] for name, values in chunk.items()}


def to_sample(edit: dict[str, Tensor], index: int) -> Sample:
    """Returns an edit as a sample: the condition as at inference, the truth as target."""
    rng = np.random.default_rng((SAMPLE_KEY, index))
    source, truth, carried = (to_float(edit[name].numpy()) for name in ("source", "truth", "carried"))
    trust = edit["trust"].numpy().astype(np.float32) / 255
    guide = None if rng.random() < GREY_SHARE else Guide(carried, trust >= TRUSTED)
    caption = bytes(edit["caption"].numpy()).decode(errors="ignore").strip() if rng.random() < 0.5 else ""
    condition = inference_condition(source, truth[:1], edit["mask"].numpy(), caption, guide)
    return replace(condition, target=truth)


# ---- training ----------------------------------------------------------------------------------------------------


def encoded(family: Family, samples: list[Sample], path: Path, device: torch.device) -> list[Encoded]:
    """Returns samples as the model takes them, kept on disk in half precision."""
    if not path.exists():
        with training_precision(device):
            together = batch(encode(family, samples, device))
        save_tensors(path, {name: values.half().cpu() for name, values in together.tensors().items()})
    tensors = load_file(path)
    return [Encoded(**{name: values[row].float() for name, values in tensors.items()}) for row in range(len(samples))]


def train_prior(folder: Path, source: Source, work: Path, plan: PriorPlan, budget: Budget) -> None:
    """Makes the edits, encodes them, and trains one LoRA for each transformer of the checkpoint in ``folder``."""
    began, device = time.monotonic(), source.device
    card = read_card(folder)
    family, model_key = open_family(card), card.fingerprint()
    family.resources = Resources(compile_blocks=False)
    until = None if budget.seconds is None else began + MAKING_SHARE * budget.seconds
    rows: list[Encoded] = []
    samples = [to_sample(edit, index) for index, edit in enumerate(edits(source, work, plan, until))]
    for start in range(0, len(samples), CHUNK):
        some = samples[start : start + CHUNK]
        name = f"{model_key}-{'x'.join(map(str, plan.size))}-{start:06d}-{len(some)}.safetensors"
        rows += encoded(family, some, work / "encoded" / name, device)
    seconds = 0.0 if budget.seconds is None else max(1.0, budget.seconds - (time.monotonic() - began))
    settings = TrainSettings(
        steps=budget.steps, budget_s=seconds / len(family.experts), batch_size=plan.batch, rank=plan.rank, lr=plan.lr,
        edit_weight=plan.edit_weight,
    )  # fmt: skip
    for expert in family.experts:
        transformer = family.load_transformer(expert, device)
        state = work / f"{model_key}-{expert.name}.safetensors"
        log = partial(_log_loss, work / "prior.jsonl", time.monotonic(), [])
        losses = train(family, expert, transformer, Stage(rows, [1] * len(rows)), settings, state, log, device)
        provenance = {"made_by": "pretrain.prior", "edits": len(rows), "training": settings.model_dump()}
        save_lora(card.prior(expert.name), family, transformer, provenance, torch.float16)
        write_json(work / "prior.json", {**provenance, "loss_last": float(np.mean(losses[-200:]))})


def _log_loss(log: Path, began: float, recent: list[float], done: int, total: int, loss: float) -> None:
    recent.append(loss)
    if done % 50 == 0 or done == total:
        mean = round(float(np.mean(recent[-50:])), 4)
        append_log(log, step=done, steps=total, loss=mean, seconds=round(time.monotonic() - began))
