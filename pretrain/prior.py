"""Trains a prior: the LoRA from which every fit of a base model starts.

    python -m pretrain.prior --model FOLDER --work DIR [--clips N] [--steps N]

A base model does not read masks inside a frame. Reading a mask, and using what is shown inside it, is the same task for
every clip. The prior learns it once, over many procedural edits whose true result is known: it generates the edited
clip from the edited first frame, the source around the mask, and the carried first frame inside the mask. The result
is written to ``FOLDER/prior``, one LoRA per transformer. Training uses the package's own loop, and resumes from DIR.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor

from loraedit.diffusion.samples import Hint, Sample, inference_condition
from loraedit.families import open_family
from loraedit.families.base import Encoded, Family, batch
from loraedit.families.card import read_card
from loraedit.lora.adapter import save_lora
from loraedit.masks.shaping import box_regions, dilate
from loraedit.propagation.carry import carry
from loraedit.runtime.devices import find_device, training_precision
from loraedit.settings import Resources, TrainSettings
from loraedit.storage.files import save_tensors, write_json
from loraedit.training import Stage, train
from loraedit.types import Mask, Weights, no_step
from loraedit.video.scaling import to_float
from pretrain.clips import EDITS, edited_twin, render, sample_scene
from pretrain.photos import photos
from pretrain.textures import Image

PRIOR_CLIPS, PRIOR_SIZE = 3000, (17, 64, 64)
PRIOR_TRAINING = TrainSettings(steps=1500, batch_size=8, rank=16, lr=2e-3, edit_weight=4.0)
CHUNK = 50
GREY_SHARE = 0.25
"""Share of samples that show nothing inside the mask, as in the paper."""
PLAIN_SHARE = 0.15
"""Share of samples without an edit, whose target is the source itself, as in the fit of a clip."""


# ---- edits with a known answer -----------------------------------------------------------------------------------


def loose_mask(rng: np.random.Generator, visible: Weights) -> Mask:
    """Draws a mask as users do: boxes, or the outline grown by a few pixels."""
    tight = visible > 0.02
    return box_regions(tight, 0.1) if rng.random() < 0.5 else dilate(tight, float(rng.uniform(2, 8)))


def make_edit(index: int, frames: int, height: int, width: int, bank: tuple[Image, ...]) -> dict[str, Tensor]:
    """Returns one edit as uint8 and bool arrays; it depends on its index and shape alone."""
    for attempt in range(1000):
        rng = np.random.default_rng((41, index, attempt))
        scene = sample_scene(rng, bank)
        twin = scene if rng.random() < PLAIN_SHARE else edited_twin(rng, scene, bank, str(rng.choice(EDITS)))
        source, truth = (render(each, frames, height, width, index) for each in (scene, twin))
        mask = loose_mask(rng, np.maximum(source.visible, truth.visible))
        if mask[0].mean() > 0.02 and mask.mean() < 0.75 and mask.any((1, 2)).all():
            break
    keys = [0, frames - 1] if rng.random() < 0.2 else [0]
    carried = carry(source.frames, [{key: truth.frames[key] for key in keys}], short_side=2 * min(height, width))[0]
    trust = np.rint(carried.trust * 255).astype(np.uint8)
    arrays = {"source": source.frames, "truth": truth.frames, "mask": mask, "carried": carried.frames, "trust": trust}
    caption = np.frombuffer(twin.caption.encode()[:256].ljust(256), np.uint8)
    return {name: torch.from_numpy(array) for name, array in {**arrays, "caption": caption.copy()}.items()}


def edits(work: Path, count: int, frames: int, height: int, width: int) -> Iterator[dict[str, Tensor]]:
    """Yields all edits, read from disk in chunks or made now."""
    bank = photos()
    for start in track(range(0, count, CHUNK), "edits"):
        path = work / "edits" / f"{frames}x{height}x{width}-{start:06d}.safetensors"
        if not path.exists():
            rows = [make_edit(index, frames, height, width, bank) for index in range(start, start + CHUNK)]
            save_tensors(path, {name: torch.stack([row[name] for row in rows]) for name in rows[0]})
        chunk = load_file(path)
        yield from ({name: values[row] for name, values in chunk.items()} for row in range(CHUNK))


def to_sample(edit: dict[str, Tensor], index: int) -> Sample:
    """Converts an edit to a sample: the condition as at inference, the truth as target."""
    rng = np.random.default_rng((43, index))
    source, truth, carried = (to_float(edit[name].numpy()) for name in ("source", "truth", "carried"))
    trust = edit["trust"].numpy().astype(np.float32) / 255
    hint = None if rng.random() < GREY_SHARE else Hint(carried, trust)
    caption = bytes(edit["caption"].numpy()).decode(errors="ignore").strip() if rng.random() < 0.5 else ""
    condition = inference_condition(source, truth[:1], edit["mask"].numpy(), caption, hint)
    return replace(condition, target=truth)


# ---- training ----------------------------------------------------------------------------------------------------


def encoded(family: Family, samples: list[Sample], path: Path, device: torch.device) -> list[Encoded]:
    """Encodes samples for the model, and keeps them on disk in half precision."""
    if not path.exists():
        with training_precision(device):
            together = batch(family.encode(samples, device, no_step))
        save_tensors(path, {name: values.half() for name, values in together.tensors().items()})
    tensors = load_file(path)
    return [Encoded(**{name: values[row].float() for name, values in tensors.items()}) for row in range(len(samples))]


def train_prior(folder: Path, work: Path, clips: int, size: tuple[int, int, int], settings: TrainSettings) -> None:
    """Makes the edits, encodes them, and trains one LoRA for each transformer."""
    card = read_card(folder)
    family, device, model_key = open_family(card), find_device(None), card.fingerprint()
    family.resources = Resources(checkpointing=device.type != "cpu", compile_blocks=True)
    rows, samples = [], []
    for index, edit in enumerate(edits(work, clips, *size)):
        samples.append(to_sample(edit, index))
        if len(samples) == CHUNK:
            path = work / "encoded" / f"{model_key}-{'x'.join(map(str, size))}-{index // CHUNK:06d}.safetensors"
            rows += encoded(family, samples, path, device)
            samples = []
    for expert in family.experts:
        transformer = family.load_transformer(expert, device)
        begun, recent = time.monotonic(), []

        def on_loss(done: int, total: int, loss: float, begun: float = begun, recent: list[float] = recent) -> None:
            recent.append(loss)
            if done % 50 == 0 or done == total:
                print(
                    f"step {done} of {total}, loss {np.mean(recent[-50:]):.4f}, {time.monotonic() - begun:.0f} s",
                    flush=True,
                )

        state = work / f"{model_key}-{expert.name}.safetensors"
        stage = Stage(rows, [1.0] * len(rows))
        losses = train(family, expert, transformer, stage, settings, state, on_loss, device)
        provenance = {"made_by": "pretrain.prior", "clips": clips, "training": settings.model_dump()}
        save_lora(card.prior(expert.name), family, transformer, provenance, torch.float16)
        write_json(work / "prior.json", {**provenance, "loss_last": float(np.mean(losses[-200:]))})


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("src/loraedit/nano"))
    parser.add_argument("--work", type=Path, default=Path(".cache/prior"))
    parser.add_argument("--clips", type=int, default=PRIOR_CLIPS)
    parser.add_argument("--size", default="x".join(map(str, PRIOR_SIZE)), help="frames x height x width")
    parser.add_argument("--steps", type=int, default=PRIOR_TRAINING.steps)
    parser.add_argument("--batch-size", type=int, default=PRIOR_TRAINING.batch_size)
    parser.add_argument("--rank", type=int, default=PRIOR_TRAINING.rank)
    parser.add_argument("--lr", type=float, default=PRIOR_TRAINING.lr)
    parser.add_argument("--edit-weight", type=float, default=PRIOR_TRAINING.edit_weight)
    parser.add_argument("--edits-only", action="store_true", help="make the edits, which need no model, and stop")
    return parser


if __name__ == "__main__":
    options = argument_parser().parse_args()
    frames, height, width = (int(part) for part in options.size.split("x"))
    if options.edits_only:
        for _ in edits(options.work, options.clips, frames, height, width):
            pass
    else:
        training = TrainSettings(
            steps=options.steps,
            batch_size=options.batch_size,
            rank=options.rank,
            lr=options.lr,
            edit_weight=options.edit_weight,
        )
        train_prior(options.model, options.work, options.clips, (frames, height, width), training)
