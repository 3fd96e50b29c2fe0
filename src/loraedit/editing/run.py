"""One job in one run folder: its keys, caches, phases and log, and what comes out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loraedit.diffusion.samples import Sample
from loraedit.editing.captions import captioned
from loraedit.editing.profiling import Profile
from loraedit.families import open_family
from loraedit.families.base import Encoded
from loraedit.job.prepare import Job
from loraedit.planning import resources_for, told
from loraedit.runs.finished import input_hashes
from loraedit.runs.folder import RUN_FORMAT
from loraedit.runtime.devices import find_device
from loraedit.settings import Resources
from loraedit.storage.files import fingerprint, save_tensors, try_load_tensors
from loraedit.storage.lora_store import Learnt, open_store
from loraedit.types import Footage, OnStep
from loraedit.version import versions

if TYPE_CHECKING:
    from loraedit.editing.preview import Previews

__all__ = ["EditResult", "Progress", "Run"]

Progress = Callable[[str, int, int, str], None]
"""Called with (phase, done, total, note); done equals total when a phase ends."""

STAGE_FORMAT = 4
"""Goes into every key; raise it when a stage's result changes, so that old files are not taken for new ones."""


@dataclass
class EditResult:
    """What came out.

    Attributes:
        clip: the edited clip: in memory (:class:`loraedit.types.Clip`) if the source was, or if there is no run folder
            to keep it; else read on demand from the run folder.
        paths: where things are: ``out`` if asked for, and in the run folder ``frames`` (lossless PNGs), ``sheet``,
            ``side_by_side`` (a video for watching), ``settings``, with a LoRA ``lora`` and ``loss_curve``, and the last
            ``preview``; with several objects ``lora_0`` and so on, one for each.
        seconds: time by phase.
        losses: training loss by step; empty if no LoRA was trained.
        reused: the phases whose result was found in the run folder or the store.
        saved_steps: the training steps of the LoRAs that were found.
        saved_seconds: how long these took where they were trained, as far as the store knows.
        outside_exact: whether every pixel outside the mask equals the source's in the lossless frames as written.
        profile: rows of phase, part, seconds and calls; empty unless asked for.
        notes: a sentence for each thing that is not as the user might expect: an extra LoRA that decided the sampling,
            or something of the source's file, such as its sound, that ``out`` could not take.
    """

    clip: Footage
    paths: dict[str, Path] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    saved_steps: int = 0
    saved_seconds: float = 0.0
    outside_exact: bool = False
    notes: list[str] = field(default_factory=list)
    profile: list[tuple[str, str, float, int]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The same as JSON values."""
        tenth = max(1, len(self.losses) // 10)
        return {
            **{name: str(path) for name, path in self.paths.items()},
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "loss_first": float(np.mean(self.losses[:tenth])) if self.losses else None,
            "loss_last": float(np.mean(self.losses[-tenth:])) if self.losses else None,
            "reused": self.reused,
            "saved": {"train_steps": self.saved_steps, "seconds": round(self.saved_seconds, 2)},
            "outside_exact": self.outside_exact,
            "notes": self.notes,
        }


class Run:
    """What all stages of an edit share.

    Attributes:
        previews: told how training and sampling go; None if nobody wants to look.
        under_way: the phase that was begun last.
    """

    previews: Previews | None = None

    def __init__(self, job: Job, folder: Path, progress: Progress, resources: Resources | None = None) -> None:
        """Begin or go on.

        Args:
            resources: how the job is fitted to the device; None finds out.
        """
        self.device = find_device(job.settings.device)
        self.job = job = captioned(job, folder / "cache", self.device)
        self.settings, self.folder, self.progress = job.settings, folder, progress
        self.store = open_store(job.settings.store)
        self.under_way = "prepare"
        on_plan = lambda done, total: progress("plan", done, total, "")  # noqa: E731
        self.resources = resources or resources_for(job, self.device, on_plan)
        self.family = open_family(job.card, self.resources)
        notes = told(self.resources) if resources is None else []
        self.result = EditResult(job.source, notes=[*job.notes, *notes])
        self.model_key = job.card.fingerprint()
        self.profile = Profile()
        if job.settings.profile:
            self.profile.watch(self.family, self.device)

    def key(self, *parts: Any) -> str:
        """A file name's key: the parts, the model, the kind of device, and how stages are made."""
        return fingerprint(STAGE_FORMAT, self.model_key, self.device.type, self.resources.alters(), *parts)

    def encoded(self, samples: Sequence[Sample], part: int = 0, parts: int = 1) -> dict[str, Encoded]:
        """Samples as the model takes them by their keys, each cached by its content.

        Args:
            part: which of several portions of the work this is.
            parts: how many there are.
        """
        keys = [self.key(*each.parts()) for each in samples]
        paths = {key: self.folder / "cache" / f"sample-{key}.safetensors" for key in keys}
        kept = {key: try_load_tensors(path, ("condition", "text")) for key, path in paths.items()}
        missing = [(key, each) for key, each in zip(keys, samples, strict=True) if kept[key] is None]
        if missing:
            with self.phase("encode", part, parts) as on_step:
                encoded = self.family.encode([each for _, each in missing], self.device, on_step)
                for (key, _), value in zip(missing, encoded, strict=True):
                    kept[key] = value.tensors()
                    save_tensors(paths[key], value.tensors())
        return {key: Encoded(**tensors) for key, tensors in kept.items() if tensors is not None}

    def extra_keys(self) -> list[list[str | float | None]]:
        """What the extra LoRAs are, in their order."""
        return [extra.key for extra in self.job.extras]

    def provenance(self) -> dict[str, Any]:
        """All that is needed to know how the result came about; the same for the same run."""
        job = self.job
        return {
            "format": RUN_FORMAT,
            "settings": self.settings.model_dump(exclude={"store"}),  # no matter for the result
            "inputs": {
                **input_hashes(job.source.fingerprint, job.source.fps, job.edited_first, job.edit_mask),
                "references": {str(index): fingerprint(image) for index, image in job.references.items()},
                "reference_order": list(job.references),
                "objects": {each.name: each.provenance(number) for number, each in enumerate(job.objects)},
                "extra_loras": self.extra_keys(),
                "model": self.model_key,
            },
            "versions": versions(),
            "device": str(self.device),
            "resources": self.resources.model_dump(),
        }

    @contextmanager
    def phase(self, name: str, part: int = 0, parts: int = 1) -> Iterator[OnStep]:
        """Time a phase, or one of its parts; gives what is told of its steps."""
        start, self.under_way = time.monotonic(), name
        self.progress(name, part, parts, "")
        self.log(phase=name, event="start")
        with self.profile.phase(name):
            yield lambda done, total: self.progress(name, part * total + done, parts * total, "")
        seconds = time.monotonic() - start
        self.result.seconds[name] = self.result.seconds.get(name, 0.0) + seconds
        self.log(phase=name, event="end", seconds=round(seconds, 3))
        self.progress(name, part + 1, parts, "")

    def reuse(self, course: str, file: Path, learnt: Learnt, where: str) -> None:
        """A course's LoRA was found: its losses are the run's, and what it saves is told."""
        result = self.result
        result.reused.append(f"train {course}")
        result.losses += learnt.losses
        result.saved_steps += len(learnt.losses)
        result.saved_seconds += learnt.seconds
        saved = {"steps": len(learnt.losses), "seconds": round(learnt.seconds, 3)}
        self.log(event="reused", lora=file.stem, found_in=where, saved=saved)

    def log(self, **event: Any) -> None:
        """One JSON line in ``RUN/log.jsonl``."""
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **event}) + "\n")
