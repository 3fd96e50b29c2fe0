"""Trains the LoRA of an edit target, or finds it in the run folder or the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loraedit.editing.ahead import Ahead
from loraedit.editing.cache import StageCache
from loraedit.editing.context import EditContext
from loraedit.editing.preview import Previews
from loraedit.editing.reporter import Reporter
from loraedit.editing.segment_inputs import CarriedSegment
from loraedit.editing.target_clip import TargetClip
from loraedit.editing.training_samples import TrainingSamples
from loraedit.families.base import Expert, Family
from loraedit.lora.adapter import save_lora, stack
from loraedit.lora.extra import for_expert
from loraedit.runtime.distributed import together
from loraedit.runtime.ranks import leads
from loraedit.sampling.schedule import experts_trained
from loraedit.settings import REFERENCE_REPEATS, TrainSettings
from loraedit.storage.files import fingerprint, save_tensors, try_load_tensors
from loraedit.storage.lora_store import Learnt
from loraedit.training import Stage, train
from loraedit.version import __version__

__all__ = ["TargetTraining", "TrainedCourse"]

PREPARE_SAMPLES = 2, 3
"""The keys of the samples are the last of three parts of the phase "prepare"; two are before the training."""

FINISHED = "finished"
"""The tensor that marks the state of a finished training."""
WAITING = "another run is training this LoRA"


@dataclass(frozen=True)
class TrainedCourse:
    """A finished course of one expert.

    Attributes:
        name: ``motion`` or ``appearance``.
        expert: the expert's name.
        file: its LoRA file.
        losses: the loss of every step.
        reused: True if the LoRA was found in the run folder or the store.
        saved_seconds: for a LoRA that was found, how long its training took, as far as the store knows.
    """

    name: str
    expert: str
    file: Path
    losses: list[float]
    reused: bool = False
    saved_seconds: float = 0.0


@dataclass(frozen=True)
class _Course:
    """A stretch of training.

    Attributes:
        name: ``motion`` or ``appearance``.
        samples: the keys of its samples.
        repeats: how often each comes in an epoch.
        settings: how it is trained.
        judged: indices of the samples whose held-out loss ends it early: the source, or the references that are new.
    """

    name: str
    samples: list[str]
    repeats: list[int]
    settings: TrainSettings

    judged: tuple[int, ...]


@dataclass(frozen=True)
class TargetTraining:
    """The training of one edit target: the source first, then the references, in one course or in several.

    Attributes:
        clip: the target's clip.
        carried: the keyframes carried through the first segment, if they are known.
        previews: shows how the training goes; None without previews.
        ahead: works on the CPU while the device encodes or trains.
        start_next: starts to prepare what follows the training.
    """

    context: EditContext
    cache: StageCache
    reporter: Reporter
    clip: TargetClip
    carried: CarriedSegment | None
    previews: Previews | None
    ahead: Ahead
    start_next: Callable[[], None]

    def run(self) -> list[TrainedCourse]:
        """Trains every expert through all courses, and returns the courses in order.

        Experts that sampling never uses, and experts outside the noise levels to train on, are left out. The last
        course of an expert has its LoRA.
        """
        settings, segments = self.context.settings, self.context.job.segments
        with self.reporter.phase("prepare", *PREPARE_SAMPLES) as on_step:
            samples = TrainingSamples(
                settings, segments, self.clip, self.cache, self.carried, self.ahead, self.reporter, on_step
            )
        courses = self._courses(samples)
        experts = experts_trained(self.context.family, self.context.settings)
        return [trained for expert in experts for trained in self._train_expert(expert, courses, samples)]

    def _courses(self, samples: TrainingSamples) -> list[_Course]:
        """Returns a course for the source, and then those of the references.

        The LoRA of the source thus does not depend on the edit. In sequential training, a further reference continues
        the training of the references before it, in the order in which the user named them.
        """
        settings, motion = self.context.settings, samples.motion
        courses = [_Course("motion", motion, [1] * len(motion), settings.training(), (0,))]
        learnt = 0
        order = [index for index in self.clip.target.references if index in samples.appearance]
        for each in settings.reference_courses(len(order)):
            appearance = [samples.appearance[index] for index in order[: each.references]]
            repeats = [1] * len(motion) + [REFERENCE_REPEATS * len(motion)] * each.references
            training = settings.training().model_copy(update={"steps": each.steps})
            new = tuple(range(len(motion) + learnt, len(motion) + each.references))
            courses.append(_Course("appearance", [*motion, *appearance], repeats, training, new))
            learnt = each.references
        return courses

    def _train_expert(
        self, expert: Expert, courses: Sequence[_Course], samples: TrainingSamples
    ) -> list[TrainedCourse]:
        """Trains one expert through all courses, each of which starts from the LoRA of the one before."""
        context, start = self.context, self.context.prior_file(expert)
        key = fingerprint(start.read_bytes()) if start else ""
        extras = context.extra_keys() if context.settings.extra_in_training else []
        key = fingerprint(key, extras, context.resources.training_attention)
        trained: list[TrainedCourse] = []
        for course in courses:
            settings = course.settings.model_dump()
            key = self.cache.key(key, expert.name, course.name, course.repeats, settings, course.samples)
            file = context.folder / "lora" / f"{course.name}-{expert.name}-{key}.safetensors"
            trained.append(self._find_or_train(expert, course, samples, start, file))
            start = file
        return trained

    def _find_or_train(
        self, expert: Expert, course: _Course, samples: TrainingSamples, start: Path | None, file: Path
    ) -> TrainedCourse:
        """Returns a course whose LoRA exists, or trains it. Of several runs that share the store, one trains it."""
        if found := self._find(expert, course, file):
            return found
        with self.context.store.sole_maker(file.stem, lambda: self.reporter.progress("train", 0, 1, WAITING)):
            if found := self._find(expert, course, file):
                return found
            stage = Stage(samples.encoded(course.samples), course.repeats, start, course.judged)
            return self._train(expert, course, stage, file)

    def _find(self, expert: Expert, course: _Course, file: Path) -> TrainedCourse | None:
        """Looks for the LoRA of a course in the run folder, and then in the store, from where it is copied."""
        state, store = self._state_file(file), self.context.store
        kept = try_load_tensors(state, ("losses",))
        if kept is not None and FINISHED in kept:
            if try_load_tensors(file, ()) is not None:
                known = store.known(file.stem)
                learnt = Learnt(kept["losses"].tolist(), known.seconds if known else 0.0)
                return self._reused(expert, course, file, learnt, "run folder")
            state.unlink()
        fetched = store.fetch(file)
        if fetched is None:
            return None
        _save_finished(state, fetched.losses)
        return self._reused(expert, course, file, fetched, "store")

    def _reused(self, expert: Expert, course: _Course, file: Path, learnt: Learnt, found_in: str) -> TrainedCourse:
        saved = {"steps": len(learnt.losses), "seconds": round(learnt.seconds, 3)}
        self.reporter.log(event="reused", lora=file.stem, found_in=found_in, saved=saved)
        return TrainedCourse(course.name, expert.name, file, learnt.losses, True, learnt.seconds)

    def _train(self, expert: Expert, course: _Course, stage: Stage, file: Path) -> TrainedCourse:
        """Trains a course, continuing from its saved state, and shares the LoRA through the store."""
        context, reporter, state = self.context, self.reporter, self._state_file(file)
        began, steps_now = time.monotonic(), 0

        def on_loss(transformer: nn.Module, done: int, total: int, loss: float) -> None:
            nonlocal steps_now
            steps_now += 1
            reporter.progress("train", done, total, f"{expert.name} loss {loss:.4f}")
            if self.previews is not None:
                self.previews.trained(expert, transformer, done, total)

        self.start_next()
        with reporter.phase("train"):
            used = context.job.extras if context.settings.extra_in_training else ()
            extras = for_expert(used, expert.name, context.job.card.experts)
            fit = partial(_fit, file=file, provenance=self._provenance(course))
            inputs = extras, stage, course.settings, state, context.device
            losses = together(fit, context.family, expert, *inputs, on_loss=on_loss)
        seconds = time.monotonic() - began
        whole = seconds * len(losses) / steps_now if steps_now else 0.0  # an earlier run may have done the first steps
        context.store.publish(file, Learnt(losses, whole))
        _save_finished(state, losses)  # last, because a finished training is not published again
        start = stage.start.stem if stage.start else None
        reporter.log(event="trained", lora=file.stem, steps=steps_now, start=start)
        return TrainedCourse(course.name, expert.name, file, losses)

    def _provenance(self, course: _Course) -> dict[str, Any]:
        """Returns the metadata of the LoRA file."""
        return {
            "made_by": f"loraedit {__version__}",
            "base": self.context.settings.model,
            "kind": self.context.settings.lora,
            "training": course.settings.model_dump(),
        }

    def _state_file(self, file: Path) -> Path:
        """Returns the file of the training state of a LoRA. After the training it holds the losses alone."""
        return self.context.folder / "checkpoints" / file.name


def _save_finished(state: Path, losses: Sequence[float]) -> None:
    """Replaces the state of a training by its losses and the mark that it is finished."""
    save_tensors(state, {"losses": torch.tensor(losses, dtype=torch.float64), FINISHED: torch.ones(1)})


def _fit(
    family: Family,
    expert: Expert,
    extras: Sequence[tuple[Path, float]],
    stage: Stage,
    settings: TrainSettings,
    state: Path,
    device: torch.device,
    on_loss: Callable[[nn.Module, int, int, float], None] = lambda *_: None,
    *,
    file: Path,
    provenance: dict[str, Any],
) -> list[float]:
    """Trains a LoRA on top of the extra LoRAs, writes its file, and returns the loss of every step.

    Runs in every process of a run on several GPUs.
    """
    transformer = family.load_transformer(expert, device)
    stack(transformer, extras)
    losses = train(family, expert, transformer, stage, settings, state, partial(on_loss, transformer), device)
    if leads():
        save_lora(file, family, transformer, provenance)
    return losses
