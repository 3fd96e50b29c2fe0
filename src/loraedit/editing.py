"""The workflow: from a checked job to the edited clip.

    samples -> encode -> train the LoRA -> sample from the edited first frame -> decode -> composite -> write

Each stage leaves one file in the run folder, named by the content of all that it depends on. Running again with the
same inputs finds those files and goes on where the last run stopped; another first frame, prompt or seed finds the
motion LoRA of the same clip and mask. ``RUN/settings.json`` says what was used.
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
from torch import Tensor

from loraedit import conditioning, masks
from loraedit.compose import composite, from_working, restore_detail
from loraedit.conditioning import Hint, Sample
from loraedit.config import SamplingSettings, TrainSettings
from loraedit.devices import find_device
from loraedit.extra_loras import for_expert
from loraedit.families import open_family
from loraedit.families.base import Encoded, Expert
from loraedit.files import fingerprint, save_tensors, try_load_tensors, write_json
from loraedit.generate import sample
from loraedit.inputs import Job
from loraedit.lora import save_lora, stack
from loraedit.report import contact_sheet, loss_curve, side_by_side
from loraedit.results import SETTINGS_FILE, Finished, input_hashes, write_finished
from loraedit.training import Stage, train
from loraedit.types import Clip, Frames, Pixels
from loraedit.version import __version__
from loraedit.video import read_clip, write_clip
from loraedit.working import Working, in_window, make_working

__all__ = ["EditResult", "Progress", "run_edit"]

Progress = Callable[[str, int, int, str], None]
"""Called with (phase, done, total, note); done equals total when a phase ends."""

STAGE_FORMAT = 1
"""Goes into every key; raise it when a stage's result changes, so that old files are not taken for new ones."""

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
        outside_exact: whether every pixel outside the mask equals the source's in the lossless frames as written.
        notes: a sentence for each thing that is not as the user might expect: an extra LoRA that decided the sampling,
            or something of the source's file, such as its sound, that ``out`` could not take.
    """

    clip: Clip
    paths: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    outside_exact: bool = False
    notes: list[str] = field(default_factory=list)

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
            "notes": self.notes,
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
        result.paths = {}
        return result


@dataclass(frozen=True)
class _Lesson:
    """A stage of training, before its samples are encoded."""

    name: str
    samples: Sequence[Sample]
    weights: list[float]
    settings: TrainSettings


class _Run:
    """One job in one run folder."""

    def __init__(self, job: Job, folder: Path, progress: Progress) -> None:
        self.job, self.folder, self.progress = job, folder, progress
        self.settings, self.family = job.settings, open_family(job.card)
        self.piece = in_window(job)
        self.device = find_device(job.settings.device)
        self.result = EditResult(job.source, notes=list(job.notes))
        self.model_key = job.card.fingerprint()

    def carry_out(self) -> EditResult:
        """All stages, in order."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.result.paths["settings"] = self.folder / SETTINGS_FILE
        write_json(self.result.paths["settings"], self._provenance())
        working = self._working()
        loras = self._loras(working) if self.settings.lora != "none" else {}
        generated = self._generate(working, loras)
        with self._phase("compose"):
            self._compose(generated)
            self._write()
        return self.result

    # ---- preparing -----------------------------------------------------------------------------------------------

    def _working(self) -> Working:
        with self._phase("prepare"):

            def on_step(done: int, total: int) -> None:
                self.progress("prepare", done, total, "")

            return make_working(self.piece, on_step)

    def _key(self, *parts: Any) -> str:
        """A file name's key: the parts, the model, the kind of device, and how stages are made."""
        return fingerprint(STAGE_FORMAT, self.model_key, self.device.type, *parts)

    # ---- training ------------------------------------------------------------------------------------------------

    def _loras(self, working: Working) -> dict[str, Path]:
        """One LoRA file per expert, trained now or found: the source first, then on from there with the references."""
        settings, motion = self.settings.training(), self._motion_samples(working)
        lessons = [_Lesson("motion", motion, [1.0] * len(motion), settings)]
        if working.references and self.settings.reference_steps:
            appearance = self._appearance_samples(working)
            weights = [1.0 / len(motion)] * len(motion) + [float(REFERENCE_SHARE)] * len(appearance)
            longer = settings.model_copy(update={"steps": self.settings.reference_steps})
            lessons.append(_Lesson("appearance", [*motion, *appearance], weights, longer))
        files = {}
        for expert in self.family.experts:
            if max(expert.low, self.settings.time_low or 0.0) < expert.high:
                files[expert.name] = self._learn(expert, lessons)
        losses = self.result.losses
        self.result.paths |= {"lora" if name == "transformer" else f"lora_{name}": file for name, file in files.items()}
        if losses:
            self.result.paths["loss_curve"] = self.folder / "loss.png"
            loss_curve(self.result.paths["loss_curve"], list(range(1, len(losses) + 1)), losses)
        return files

    def _learn(self, expert: Expert, lessons: Sequence[_Lesson]) -> Path:
        """One expert through all lessons; the last one's LoRA file."""
        file = self._prior(expert)
        key = fingerprint(file.read_bytes()) if file else ""
        under = self._extra_keys() if self.settings.extra_in_training else []
        key = fingerprint(key, under) if under else key
        for lesson in lessons:
            parts = (part for sample in lesson.samples for part in sample.parts())
            key = self._key(key, expert.name, lesson.name, lesson.weights, lesson.settings.model_dump(), *parts)
            start, file = file, self.folder / "lora" / f"{lesson.name}-{expert.name}-{key}.safetensors"
            state = self.folder / "checkpoints" / file.name
            kept = try_load_tensors(state, ("losses",))
            if kept is None or len(kept["losses"]) < lesson.settings.steps or try_load_tensors(file, ()) is None:
                stage = Stage(self._encoded(lesson.samples), lesson.weights, start)
                self._train(expert, stage, lesson.settings, state, file)
            else:
                self.result.reused.append(f"train {lesson.name}")
                self.result.losses += kept["losses"].tolist()
        assert file is not None
        return file

    def _prior(self, expert: Expert) -> Path | None:
        """The LoRA to start from, if the settings ask for one and the checkpoint brings it."""
        file = self.job.card.prior(expert.name)
        return file if self.settings.prior and self.settings.lora == "motion" and file.exists() else None

    def _motion_samples(self, working: Working) -> list[Sample]:
        """The source clip in as many looks as asked for."""
        rng = np.random.default_rng((self.settings.train_seed, 3))
        prompt, hint = self.settings.source_prompt, working.hints.taught if working.hints else None
        samples = []
        for look in range(self.settings.looks or 1):
            change = conditioning.recolour(rng) if look else _unchanged
            source = change(working.source)
            if self.settings.lora == "naive":
                samples.append(conditioning.naive_sample(source, prompt))
            else:
                changed = Hint(change(hint.pixels), hint.trust) if hint else None
                samples.append(
                    conditioning.motion_sample(source, working.mask, prompt, changed, self._anchors(working))
                )
        return samples

    def _anchors(self, working: Working) -> dict[int, Pixels]:
        """The references that are given as kept frames."""
        return working.references if self.settings.anchors else {}

    def _appearance_samples(self, working: Working) -> list[Sample]:
        """One sample for each reference."""
        hint, samples = working.hints.from_first if working.hints else None, []
        for index, edited in working.references.items():
            at = slice(index, index + 1)
            carried = Hint(hint.pixels[at], hint.trust[at]) if hint else None
            samples.append(
                conditioning.appearance_sample(
                    working.source[at], edited, working.mask[at], self.settings.prompt, carried
                )
            )
        return samples

    def _train(self, expert: Expert, stage: Stage, settings: TrainSettings, state: Path, file: Path) -> None:
        with self._phase("train"):
            transformer = self.family.load_transformer(expert, self.device)
            if self.settings.extra_in_training:
                stack(transformer, for_expert(self.job.extras, expert.name, self.job.card.experts))

            def on_loss(done: int, total: int, loss: float) -> None:
                self.progress("train", done, total, f"{expert.name} loss {loss:.4f}")

            self.result.losses += train(self.family, expert, transformer, stage, settings, state, on_loss)
            provenance = {
                "made_by": f"loraedit {__version__}",
                "base": self.settings.model,
                "kind": self.settings.lora,
                "training": settings.model_dump(),
            }
            save_lora(file, self.family, transformer, provenance)

    # ---- generating ----------------------------------------------------------------------------------------------

    def _generate(self, working: Working, loras: dict[str, Path]) -> Frames:
        """The generated clip at the source's size."""
        # Only the motion LoRA reads a mask inside a frame; without it the model gets plain image-to-video.
        mask = working.mask if self.settings.lora == "motion" else np.ones_like(working.mask)
        hint = working.hints.shown if working.hints else None
        anchors = self._anchors(working) if self.settings.lora == "motion" else {}
        condition = conditioning.inference_condition(
            working.source, working.edited_first, mask, self.settings.prompt, hint, anchors
        )
        sampling = self.settings.sampling()
        stems, extras = [path.stem for path in loras.values()], self._extra_keys()
        key = self._key(stems, sampling.model_dump(), *([extras] if extras else []), *condition.parts())
        path = self.folder / "cache" / f"latents-{key}.safetensors"
        steps = path.with_suffix("")
        kept = try_load_tensors(path, ("latents",))
        encoded = self._encoded([condition])[0]
        if kept is None:
            latents = self._sample(encoded, sampling, loras, steps)
            save_tensors(path, {"latents": latents})
        else:
            self.result.reused.append("sample")
            latents = kept["latents"]
        shutil.rmtree(steps, ignore_errors=True)
        with self._phase("decode"):
            generated = self._decoded(latents)
            if working.hints is None or not self.settings.detail:
                return generated
            blurred = self._decoded(encoded.condition[-self.job.card.latent_channels :])
            return restore_detail(generated, working.hints.full, blurred, working.hints.trust)

    def _decoded(self, latents: Tensor) -> Frames:
        """The frames of latents, at the source's size and length."""
        pixels = self.family.decode(latents, self.device)
        return from_working(pixels[: len(self.piece.source)], self.piece.source.size)

    def _sample(self, encoded: Encoded, sampling: SamplingSettings, loras: dict[str, Path], steps: Path) -> Tensor:
        guided = sampling.guidance > 1 and not self.job.card.embeds_guidance
        negative = self.family.embed_prompt("", self.device) if guided else None
        with self._phase("sample"):

            def on_step(done: int, total: int) -> None:
                self.progress("sample", done, total, "")

            return sample(self.family, encoded, negative, sampling, loras, self.device, steps, on_step, self.job.extras)

    def _extra_keys(self) -> list[list[str | float | None]]:
        """What the extra LoRAs are, in their order."""
        return [extra.key for extra in self.job.extras]

    def _encoded(self, samples: Sequence[Sample]) -> list[Encoded]:
        """Encoded samples, each cached by its content."""
        paths = [self.folder / "cache" / f"sample-{self._key(*each.parts())}.safetensors" for each in samples]
        kept = {path: try_load_tensors(path, ("condition", "text")) for path in paths}
        missing = [(path, each) for path, each in zip(paths, samples, strict=True) if kept[path] is None]
        if missing:
            with self._phase("encode"):

                def on_step(done: int, total: int) -> None:
                    self.progress("encode", done, total, "")

                encoded = self.family.encode([each for _, each in missing], self.device, on_step)
                for (path, _), value in zip(missing, encoded, strict=True):
                    kept[path] = value.tensors()
                    save_tensors(path, value.tensors())
        return [Encoded(**tensors) for path in paths if (tensors := kept[path]) is not None]

    # ---- the result ----------------------------------------------------------------------------------------------

    def _compose(self, generated: Frames) -> None:
        """Put the generated frames back in their place, and lay them over the source inside the mask."""
        job, settings = self.job, self.settings
        generated[0] = self.piece.edited_first
        whole = job.window.paste(job.source.frames, generated)
        frames = composite(job.source.frames, whole, masks.feather(job.edit_mask, settings.feather_px))
        self.result.clip = Clip(frames, job.source.fps, job.source.origin)

    def _write(self) -> None:
        """What people look at, then all that is kept without loss, read back and compared with the source."""
        paths, clip, job = self.result.paths, self.result.clip, self.job
        if job.out is not None:
            paths["out"] = job.out
            self.result.notes += write_clip(job.out, clip, self.settings.codec)
        paths["sheet"] = self.folder / "sheet.png"
        title = f"{self.settings.lora} LoRA, {self.settings.model}"
        contact_sheet(job.source.frames, clip.frames, job.edit_mask, title=title).save(paths["sheet"])
        paths["side_by_side"] = self.folder / "side_by_side.mp4"
        write_clip(paths["side_by_side"], Clip(side_by_side(job.source.frames, clip.frames), clip.fps))
        kept, losses = [path.name for name, path in paths.items() if name.startswith("lora")], self.result.losses
        finished = Finished(job.source, clip, job.edit_mask, job.edited_first, losses, self._provenance(), kept)
        write_finished(self.folder, finished)
        paths["frames"] = self.folder / "frames"
        written, outside = read_clip(paths["frames"]).frames, ~job.edit_mask
        self.result.outside_exact = bool(np.array_equal(written[outside], job.source.frames[outside]))
        paths["run"] = self.folder

    def _provenance(self) -> dict[str, Any]:
        """All that is needed to know how the result came about; the same for the same run."""
        job = self.job
        return {
            "settings": self.settings.model_dump(),
            "inputs": {
                **input_hashes(job.source, job.edited_first, job.edit_mask),
                "references": {str(index): fingerprint(image) for index, image in job.references.items()},
                "extra_loras": self._extra_keys(),
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


def _unchanged(pixels: Pixels) -> Pixels:
    return pixels


def _versions() -> dict[str, str]:
    import diffusers
    import peft

    return {
        "loraedit": __version__, "python": platform.python_version(), "torch": torch.__version__,
        "diffusers": diffusers.__version__, "peft": peft.__version__,
    }  # fmt: skip
