"""The workflow: from a checked job to the edited clip.

    samples -> encode -> train the LoRA -> sample from the edited first frame -> decode -> composite -> write

Each stage leaves one file in the run folder, named by the content of all that it depends on. Running again with the
same inputs finds those files and goes on where the last run stopped; another first frame, prompt or seed finds the
LoRA of the same clip and mask. ``RUN/settings.json`` says what was used.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loraedit import conditioning, masks
from loraedit.compose import composite, pad_frames, resize_frames, to_float, to_uint8, working_size
from loraedit.conditioning import Sample
from loraedit.errors import InputError
from loraedit.families import open_family
from loraedit.families.base import Encoded, Expert
from loraedit.files import fingerprint, load_tensors, save_tensors, write_json
from loraedit.generate import Sampling, sample
from loraedit.inputs import Job
from loraedit.lora import save_lora
from loraedit.report import contact_sheet, loss_curve, side_by_side
from loraedit.training import Phase, train
from loraedit.types import Clip, Frames, Mask, Pixels
from loraedit.version import __version__
from loraedit.video import write_clip

__all__ = ["EditResult", "Progress", "run_edit"]

Progress = Callable[[str, int, int, str], None]
"""Called with (phase, done, total, note); done equals total when a phase ends."""

REFERENCE_SHARE = 9
"""A reference is drawn this many times as often as the source clip, as in the paper's second stage."""


@dataclass
class EditResult:
    """What came out.

    Attributes:
        clip: the edited clip.
        paths: where things are: ``out`` if asked for, and in the run folder ``frames`` (lossless PNGs), ``sheet``,
            ``side_by_side`` (a video for watching), ``settings``, and with a LoRA ``lora`` and ``loss_curve``.
        seconds: time by phase.
        losses: training loss by step; empty if no LoRA was trained.
        reused: the phases whose result was found in the run folder.
        outside_exact: whether every pixel outside the mask equals the source's.
    """

    clip: Clip
    paths: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    outside_exact: bool = False

    def summary(self) -> dict[str, Any]:
        """The same as JSON values."""
        tenth = max(1, len(self.losses) // 10)
        return {
            **{name: str(path) for name, path in self.paths.items()},
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "loss_first": float(np.mean(self.losses[:tenth])) if self.losses else None,
            "loss_last": float(np.mean(self.losses[-tenth:])) if self.losses else None,
            "reused": self.reused,
            "outside_exact": self.outside_exact,
        }


def run_edit(job: Job, progress: Progress = lambda *_: None) -> EditResult:
    """Carry out a job.

    Raises:
        ModelError: the checkpoint or a LoRA cannot be loaded.
        CacheError: a file of the run folder is damaged.
    """
    if job.run is not None:
        return _Run(job, job.run, progress).carry_out()
    with tempfile.TemporaryDirectory(prefix="loraedit-") as folder:
        result = _Run(job, Path(folder), progress).carry_out()
        result.paths = {name: path for name, path in result.paths.items() if name == "out"}
        return result


@dataclass(frozen=True)
class _Working:
    """The job's arrays at the model's working size and length."""

    source: Pixels
    edited_first: Pixels
    mask: Mask
    references: dict[int, Pixels]


class _Run:
    """One job in one run folder."""

    def __init__(self, job: Job, folder: Path, progress: Progress) -> None:
        self.job, self.folder, self.progress = job, folder, progress
        self.settings, self.family = job.settings, open_family(job.card)
        self.device = _device(job.settings.device)
        self.result = EditResult(job.source)
        self.model_key = fingerprint(*_model_parts(job.card.folder))

    def carry_out(self) -> EditResult:
        """All stages, in order."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.result.paths["settings"] = self.folder / "settings.json"
        write_json(self.result.paths["settings"], self._provenance())
        working = self._working()
        loras = self._loras(working) if self.settings.lora != "none" else {}
        pixels = self._generate(working, loras)
        with self._phase("compose"):
            self._compose(pixels)
            self._write()
        return self.result

    # ---- preparing -----------------------------------------------------------------------------------------------

    def _working(self) -> _Working:
        job, card = self.job, self.job.card
        size = working_size(job.source.size, card.settings.area_px, card.multiple_px)

        def fit(frames: Frames) -> Pixels:
            return resize_frames(to_float(frames), size)

        return _Working(
            source=pad_frames(fit(job.source.frames), card.frame_step),
            edited_first=fit(job.edited_first[None]),
            mask=pad_frames(masks.resize_mask(job.edit_mask, size), card.frame_step),
            references={index: fit(image[None]) for index, image in job.references.items()},
        )

    # ---- training ------------------------------------------------------------------------------------------------

    def _loras(self, working: _Working) -> dict[str, Path]:
        """One LoRA file per expert, trained now or found."""
        motion, appearance = self._samples(working)
        key = fingerprint(
            self.model_key, self.settings.lora, self.settings.training().model_dump(), self.device.type,
            *(part for sample in (*motion, *appearance) for part in _sample_parts(sample)),
        )  # fmt: skip
        files = {e.name: self.folder / "lora" / f"{e.name}-{key}.safetensors" for e in self.family.experts}
        states = {e.name: self.folder / "checkpoints" / f"{e.name}-{key}.safetensors" for e in self.family.experts}
        if not all(path.exists() for path in (*files.values(), *states.values())):
            encoded = self._encoded("encode", [*motion, *appearance])
            phases = _phases(encoded[: len(motion)], encoded[len(motion) :], self.settings.steps or 1)
            for expert in self.family.experts:
                self._train(expert, phases, states[expert.name], files[expert.name])
        else:
            self.result.reused.append("train")
        losses = [loss for path in states.values() for loss in load_tensors(path)[0]["losses"].tolist()]
        self.result.losses = losses
        self.result.paths["lora"] = next(iter(files.values()))
        self.result.paths["loss_curve"] = self.folder / "loss.png"
        loss_curve(self.result.paths["loss_curve"], list(range(1, len(losses) + 1)), losses)
        return files

    def _samples(self, working: _Working) -> tuple[list[Sample], list[Sample]]:
        """The source clip in as many looks as asked for, and the references."""
        rng = np.random.default_rng((self.settings.seed, 3))
        prompt = self.settings.source_prompt
        motion = []
        for look in range(self.settings.looks or 1):
            source = conditioning.recolour(working.source, rng) if look else working.source
            if self.settings.lora == "naive":
                motion.append(conditioning.naive_sample(source, prompt))
            else:
                motion.append(conditioning.motion_sample(source, working.mask, prompt))
        appearance = [
            conditioning.appearance_sample(
                working.source[index : index + 1], edited, working.mask[index : index + 1], self.settings.prompt
            )
            for index, edited in working.references.items()
        ]
        return motion, appearance

    def _train(self, expert: Expert, phases: Sequence[Phase], state: Path, file: Path) -> None:
        with self._phase("train"):
            transformer = self.family.load_transformer(expert, self.device)

            def on_loss(done: int, total: int, loss: float) -> None:
                self.progress("train", done, total, f"{expert.name} loss {loss:.4f}")

            train(self.family, expert, transformer, phases, self.settings.training(), state, on_loss)
            provenance = {
                "made_by": f"loraedit {__version__}",
                "base": self.settings.model,
                "kind": self.settings.lora,
                "training": self.settings.training().model_dump(),
            }
            save_lora(file, self.family, transformer, provenance)

    # ---- generating ----------------------------------------------------------------------------------------------

    def _generate(self, working: _Working, loras: dict[str, Path]) -> Pixels:
        """Pixels of the whole working clip."""
        # Only the motion LoRA reads a mask inside a frame; without it the model gets plain image-to-video.
        mask = working.mask if self.settings.lora == "motion" else np.ones_like(working.mask)
        condition = conditioning.inference_condition(working.source, working.edited_first, mask, self.settings.prompt)
        sampling = Sampling(self.settings.sampling_steps or 1, self.settings.guidance or 0.0, self.settings.seed)
        lora_keys = [path.stem for path in loras.values()]
        key = fingerprint(self.model_key, lora_keys, vars(sampling), self.device.type, *_sample_parts(condition))
        path = self.folder / "cache" / f"latents-{key}.safetensors"
        steps = path.with_suffix("")
        if path.exists():
            self.result.reused.append("sample")
        else:
            self._sample(condition, sampling, loras, steps, path)
        shutil.rmtree(steps, ignore_errors=True)
        latents = load_tensors(path)[0]["latents"]
        with self._phase("decode"):
            pixels = self.family.decode(latents, self.device)
        return pixels[: len(self.job.source)]

    def _sample(self, condition: Sample, sampling: Sampling, loras: dict[str, Path], steps: Path, path: Path) -> None:
        encoded = self._encoded("encode", [condition])[0]
        negative = self.family.embed_prompt("", self.device) if sampling.guidance > 1 else None
        with self._phase("sample"):

            def on_step(done: int, total: int) -> None:
                self.progress("sample", done, total, "")

            latents = sample(self.family, encoded, negative, sampling, loras, self.device, steps, on_step)
            save_tensors(path, {"latents": latents})

    def _encoded(self, phase: str, samples: Sequence[Sample]) -> list[Encoded]:
        """Encoded samples, each cached by its content."""
        keys = [fingerprint(self.model_key, self.device.type, *_sample_parts(sample)) for sample in samples]
        paths = [self.folder / "cache" / f"sample-{key}.safetensors" for key in keys]
        missing = [(path, sample) for path, sample in zip(paths, samples, strict=True) if not path.exists()]
        if missing:
            with self._phase(phase):

                def on_step(done: int, total: int) -> None:
                    self.progress(phase, done, total, "")

                encoded = self.family.encode([sample for _, sample in missing], self.device, on_step)
                for (path, _), value in zip(missing, encoded, strict=True):
                    save_tensors(path, value.tensors())
        return [Encoded(**load_tensors(path)[0]) for path in paths]

    # ---- the result ----------------------------------------------------------------------------------------------

    def _compose(self, pixels: Pixels) -> None:
        """Bring the generated pixels to the source's size and lay them over it inside the mask."""
        source, mask = self.job.source, self.job.edit_mask
        generated = to_uint8(resize_frames(pixels, source.size))
        generated[0] = self.job.edited_first
        frames = composite(source.frames, generated, masks.feather(mask, self.settings.feather_px))
        self.result.outside_exact = bool(np.array_equal(frames[~mask], source.frames[~mask]))
        self.result.clip = Clip(frames, source.fps)

    def _write(self) -> None:
        paths, clip = self.result.paths, self.result.clip
        paths["frames"] = self.folder / "frames"
        write_clip(paths["frames"], clip)
        paths["sheet"] = self.folder / "sheet.png"
        title = f"{self.settings.lora} LoRA, {self.settings.model}"
        contact_sheet(self.job.source.frames, clip.frames, self.job.edit_mask, title=title).save(paths["sheet"])
        paths["side_by_side"] = self.folder / "side_by_side.mp4"
        write_clip(paths["side_by_side"], Clip(side_by_side(self.job.source.frames, clip.frames), clip.fps))
        if self.job.out is not None:
            paths["out"] = self.job.out
            write_clip(self.job.out, clip)
        paths["run"] = self.folder

    def _provenance(self) -> dict[str, Any]:
        """All that is needed to know how the result came about; the same for the same run."""
        job = self.job
        return {
            "settings": self.settings.model_dump(),
            "inputs": {
                "source": fingerprint(job.source.frames, str(job.source.fps)),
                "first_frame": fingerprint(job.edited_first),
                "mask": fingerprint(job.edit_mask),
                "references": {str(index): fingerprint(image) for index, image in job.references.items()},
                "model": self.model_key,
            },
            "versions": _versions(),
            "device": str(self.device),
        }

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        self.progress(name, 0, 1, "")
        self._log(phase=name, event="start")
        yield
        seconds = time.monotonic() - start
        self.result.seconds[name] = self.result.seconds.get(name, 0.0) + seconds
        self._log(phase=name, event="end", seconds=round(seconds, 3))
        self.progress(name, 1, 1, "")

    def _log(self, **event: Any) -> None:
        """One JSON line in ``RUN/log.jsonl``."""
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **event}) + "\n")


def _phases(motion: Sequence[Encoded], appearance: Sequence[Encoded], steps: int) -> list[Phase]:
    """The paper's two stages: the source alone, then as many steps on source and references."""
    phases = [Phase(steps, motion, [1.0] * len(motion))]
    if appearance:
        weights = [1.0 / len(motion)] * len(motion) + [float(REFERENCE_SHARE)] * len(appearance)
        phases.append(Phase(steps, [*motion, *appearance], weights))
    return phases


def _sample_parts(sample: Sample) -> tuple[Any, ...]:
    """What a cached encoding depends on."""
    target = sample.target if sample.target is not None else "none"
    return (sample.condition, sample.edit_mask, sample.image, sample.prompt, target)


def _model_parts(folder: Path) -> list[Any]:
    """A checkpoint's identity: its JSON files, and name, size and head of each weights file."""
    parts: list[Any] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".json":
            parts += [path.relative_to(folder).as_posix(), path.read_bytes()]
        elif path.suffix == ".safetensors":
            with path.open("rb") as file:
                parts += [path.relative_to(folder).as_posix(), path.stat().st_size, file.read(1 << 20)]
    return parts


def _device(name: str | None) -> torch.device:
    """The device asked for, or the best there is.

    Raises:
        InputError: this machine does not have it.
    """
    if name is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    device = torch.device(name)
    if device.type != "cpu" and not torch.accelerator.is_available():
        raise InputError(f"This machine has no {name} that torch can use. Expected --device cpu.")
    return device


def _versions() -> dict[str, str]:
    import diffusers
    import peft

    return {
        "loraedit": __version__, "python": platform.python_version(), "torch": torch.__version__,
        "diffusers": diffusers.__version__, "peft": peft.__version__,
    }  # fmt: skip
