"""Training: what is taught of a clip, in which order, and the LoRA files that come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from loraedit.diffusion import samples as conditioning
from loraedit.diffusion.samples import Guide, Sample
from loraedit.editing.run import Run
from loraedit.editing.segment_inputs import CarriedSegment, TrainingInput, first_frame, training_input
from loraedit.editing.target_clip import TargetClip
from loraedit.families.base import Encoded, Expert, Family
from loraedit.job.segments import TAUGHT_SEGMENTS, Segment, spread
from loraedit.lora.adapter import save_lora, stack
from loraedit.lora.extra import for_expert
from loraedit.runs.pictures import loss_curve
from loraedit.runtime.distributed import together
from loraedit.runtime.ranks import leads
from loraedit.sampling.sampler import experts_trained
from loraedit.settings import TrainSettings
from loraedit.storage.files import fingerprint, save_tensors, try_load_tensors
from loraedit.storage.lora_store import Learnt
from loraedit.training import Stage, train
from loraedit.types import Pixels
from loraedit.version import __version__

__all__ = ["learn", "prior"]

REFERENCE_SHARE = 9
"""A reference is drawn this many times as often as the source clip, as in the paper's second stage."""

FINISHED = "finished"
"""In the state of a training that is over."""
WAITING = "another run is training this LoRA"


@dataclass(frozen=True)
class _Course:
    """A stretch of training: the keys of its samples, and how often each is drawn."""

    name: str
    samples: list[str]
    weights: list[float]
    settings: TrainSettings


def learn(run: Run, clip: TargetClip, number: int, carried: CarriedSegment | None = None) -> dict[str, Path]:
    """A target's LoRA file per expert, trained now or found: the source first, then on from there with each reference.

    An expert that sampling never asks, or that serves no noise level that is to be trained on, gets none.

    Args:
        number: which target it is, from 0.
        carried: the keyframes carried through the first segment, if they are known.
    """
    lessons = _Lessons(run, clip, carried)
    courses = _courses(run, clip, lessons)
    files = {}
    for expert in experts_trained(run.family, run.settings):
        files[expert.name] = _train_all(run, expert, courses, lessons)
    losses, which = run.result.losses, f"lora_{number}" if len(run.job.targets) > 1 else "lora"
    for order, (name, file) in enumerate(files.items()):
        run.result.paths[f"{which}_{name}" if order else which] = file
    if losses:
        run.result.paths["loss_curve"] = run.folder / "loss.png"
        loss_curve(run.result.paths["loss_curve"], list(range(1, len(losses) + 1)), losses)
    return files


# ---- samples ---------------------------------------------------------------------------------------------------------


class _Lessons:
    """The samples of some of the segments in which something is edited, spread over the clip, and of all references.

    They are made a segment at a time: once for their keys, and once more to be encoded, if something is to be trained.

    Attributes:
        motion: keys of the source's samples.
        appearance: keys of the references' samples by frame index.
    """

    def __init__(self, run: Run, clip: TargetClip, carried: CarriedSegment | None) -> None:
        self._run, self._clip, self._carried = run, clip, carried
        segments = run.job.segments
        references = clip.target.references if run.settings.reference_steps else []
        self._shown = spread([each for each in segments if clip.target.edits(each)], TAUGHT_SEGMENTS)
        self._asked = {index: next(each for each in segments if index in each) for index in sorted(references)}
        self._wanted = [each for each in segments if each in self._shown or each in self._asked.values()]
        self._encoded: dict[str, Encoded] = {}
        self.motion: list[str] = []
        self.appearance: dict[int, str] = {}
        for segment in self._wanted:
            motion, looks = self._samples(segment)
            self.motion += [run.key(*each.parts()) for each in motion]
            self.appearance |= {index: run.key(*each.parts()) for index, each in looks.items()}

    def encoded(self, keys: Sequence[str]) -> list[Encoded]:
        """Samples as the model takes them."""
        if not self._encoded:
            for part, segment in enumerate(self._wanted):
                motion, looks = self._samples(segment)
                self._encoded |= self._run.encoded([*motion, *looks.values()], part, len(self._wanted))
        return [self._encoded[key] for key in keys]

    def _samples(self, segment: Segment) -> tuple[list[Sample], dict[int, Sample]]:
        """A segment's samples of motion, and of the references in it by frame index."""
        lesson = training_input(self._clip, segment, self._carried)
        shown = segment in self._shown
        motion = _motion_samples(self._run, self._clip, segment, lesson, self._shown) if shown else []
        inside = [index for index, holder in self._asked.items() if holder == segment]
        return motion, {index: _appearance_sample(self._run, lesson, index - segment.start) for index in inside}


def _motion_samples(
    run: Run, clip: TargetClip, segment: Segment, lesson: TrainingInput, shown: Sequence[Segment]
) -> list[Sample]:
    """A segment as it is, and in its share of the further looks that are asked for."""
    rng = np.random.default_rng((run.settings.train_seed, 3))
    prompt, anchor = run.settings.source_prompt, first_frame(clip, edited=False)
    kept = [*range(1, segment.given), *(lesson.references if run.settings.condition_on_references else ())]
    samples = []
    for look in range(run.settings.colour_variants):
        change = conditioning.recolour(rng) if look else _unchanged
        if look and (look - 1) % len(shown) != shown.index(segment):
            continue
        source = change(lesson.source)
        guides = [Guide(change(each.pixels), each.trust) for each in lesson.source_guides]
        if run.settings.lora == "naive":
            made = [conditioning.naive_sample(source, prompt, kept)]
        else:  # as it is with both guides, each other look with one of them in turn
            asked: list[Guide | None] = [*(guides[look % 2 : look % 2 + 1] if look else guides)]
            made = [conditioning.motion_sample(source, lesson.mask, prompt, each, kept) for each in asked or [None]]
        samples += [replace(each, image=change(anchor)) for each in made]
    return samples


def _appearance_sample(run: Run, lesson: TrainingInput, index: int) -> Sample:
    """The sample of a reference, given by its index in the segment."""
    guide, at = lesson.first_frame_guide, slice(index, index + 1)
    carried = Guide(guide.pixels[at], guide.trust[at]) if guide else None
    return conditioning.appearance_sample(
        lesson.source[at], lesson.references[index], lesson.reference_masks[index], run.settings.prompt, carried
    )


def _unchanged(pixels: Pixels) -> Pixels:
    return pixels


# ---- training --------------------------------------------------------------------------------------------------------


def _courses(run: Run, clip: TargetClip, lessons: _Lessons) -> list[_Course]:
    """The source, and then a course for each reference in the order in which they were given.

    So the LoRA that has learnt the source is the same whatever is edited, and one more reference goes on from the LoRA
    that has learnt those before it.
    """
    settings, motion = run.settings.training(), lessons.motion
    courses = [_Course("motion", motion, [1.0] * len(motion), settings)]
    order = [index for index in clip.target.references if index in lessons.appearance]
    for count, steps in enumerate(run.settings.reference_courses(len(order)), 1):
        looks = [lessons.appearance[index] for index in order[:count]]
        weights = [1.0 / len(motion)] * len(motion) + [float(REFERENCE_SHARE)] * count
        shorter = settings.model_copy(update={"steps": steps})
        courses.append(_Course("appearance", [*motion, *looks], weights, shorter))
    return courses


def _train_all(run: Run, expert: Expert, courses: Sequence[_Course], lessons: _Lessons) -> Path:
    """One expert through all courses; the last one's LoRA file."""
    file = prior(run, expert)
    key = fingerprint(file.read_bytes()) if file else ""
    under = run.extra_keys() if run.settings.extra_in_training else []
    key = fingerprint(key, under) if under else key
    for course in courses:
        settings = course.settings.model_dump()
        key = run.key(key, expert.name, course.name, course.weights, settings, course.samples)
        start, file = file, run.folder / "lora" / f"{course.name}-{expert.name}-{key}.safetensors"
        if not _found(run, course, file):
            with run.store.sole_maker(file.stem, lambda: run.progress("train", 0, 1, WAITING)):
                if not _found(run, course, file):
                    _train(run, expert, course, lessons.encoded(course.samples), start, file)
    assert file is not None
    return file


def _state(run: Run, file: Path) -> Path:
    """Where the training of a LoRA stands; once it is finished, its losses alone."""
    return run.folder / "checkpoints" / file.name


def _found(run: Run, course: _Course, file: Path) -> bool:
    """Whether a course's LoRA is in the run folder, or was in the store and is now; its losses are those of the run."""
    state = _state(run, file)
    kept = try_load_tensors(state, ("losses",))
    if kept is not None and FINISHED in kept:
        if try_load_tensors(file, ()) is not None:
            known = run.store.known(file.stem)
            run.reuse(course.name, file, Learnt(kept["losses"].tolist(), known.seconds if known else 0.0), "run folder")
            return True
        state.unlink()
    learnt = run.store.fetch(file)
    if learnt is not None:
        _finish(state, learnt.losses)
        run.reuse(course.name, file, learnt, "store")
    return learnt is not None


def _finish(state: Path, losses: Sequence[float]) -> None:
    """The training is over: of its state the losses are kept."""
    save_tensors(state, {"losses": torch.tensor(losses, dtype=torch.float64), FINISHED: torch.ones(1)})


def prior(run: Run, expert: Expert) -> Path | None:
    """The LoRA to start from, if the settings ask for one and the checkpoint brings it."""
    file = run.job.card.prior(expert.name)
    return file if run.settings.prior and run.settings.lora == "motion" and file.exists() else None


def _train(
    run: Run, expert: Expert, course: _Course, samples: Sequence[Encoded], start: Path | None, file: Path
) -> None:
    began, state, fresh = time.monotonic(), _state(run, file), 0
    with run.phase("train"):
        extras = for_expert(run.job.extras if run.settings.extra_in_training else (), expert.name, run.job.card.experts)

        def on_loss(transformer: nn.Module, done: int, total: int, loss: float) -> None:
            nonlocal fresh
            fresh += 1
            run.progress("train", done, total, f"{expert.name} loss {loss:.4f}")
            if run.previews is not None:
                run.previews.trained(expert, transformer, done, total)

        stage = Stage(samples, course.weights, start, judged=0 if course.name == "motion" else -1)  # the latest look
        provenance = {
            "made_by": f"loraedit {__version__}",
            "base": run.settings.model,
            "kind": run.settings.lora,
            "training": course.settings.model_dump(),
        }
        fit = partial(_fit, file=file, provenance=provenance)
        losses = together(fit, run.family, expert, extras, stage, course.settings, state, run.device, on_loss=on_loss)
    run.result.losses += losses
    seconds = (time.monotonic() - began) * len(losses) / fresh if fresh else 0.0  # a part may have been done before
    run.store.publish(file, Learnt(losses, seconds))
    _finish(state, losses)  # last: what is finished is not published again
    run.log(event="trained", lora=file.stem, steps=fresh, start=start.stem if start else None)


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
    """Train a LoRA over extra ones, and write its file; the loss of every step."""
    transformer = family.load_transformer(expert, device)
    stack(transformer, extras)
    told = partial(on_loss, transformer)
    losses = train(family, expert, transformer, stage, settings, state, told, device)
    if leads():
        save_lora(file, family, transformer, provenance)
    return losses
