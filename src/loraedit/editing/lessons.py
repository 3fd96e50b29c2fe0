"""Training: what is taught of a clip, in which order, and the LoRA files that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from loraedit import conditioning
from loraedit.conditioning import Hint, Sample
from loraedit.config import TrainSettings
from loraedit.editing.run import Run
from loraedit.extra_loras import for_expert
from loraedit.families.base import Encoded, Expert
from loraedit.files import fingerprint, try_load_tensors
from loraedit.lora import save_lora, stack
from loraedit.report import loss_curve
from loraedit.segments import Segment, spread
from loraedit.training import Stage, train
from loraedit.types import Pixels
from loraedit.version import __version__
from loraedit.working import Lesson, Workbench

__all__ = ["learn", "prior"]

REFERENCE_SHARE = 9
"""A reference is drawn this many times as often as the source clip, as in the paper's second stage."""

TAUGHT_SEGMENTS = 4
"""The most segments of a clip that are learnt from; each costs as much memory and encoding as a short clip."""


@dataclass
class _Taught:
    """Encoded samples by their keys: of the source's motion, and of the references' looks."""

    motion: dict[str, Encoded] = field(default_factory=dict)
    appearance: dict[str, Encoded] = field(default_factory=dict)


@dataclass(frozen=True)
class _Course:
    """A stretch of training: its samples by key, and how often each is drawn."""

    name: str
    samples: dict[str, Encoded]
    weights: list[float]
    settings: TrainSettings


def learn(run: Run, bench: Workbench) -> dict[str, Path]:
    """One LoRA file per expert, trained now or found: the source first, then on from there with the references."""
    courses = _courses(run, _teach(run, bench))
    files = {}
    for expert in run.family.experts:
        if max(expert.low, run.settings.time_low or 0.0) < expert.high:
            files[expert.name] = _train_all(run, expert, courses)
    losses = run.result.losses
    run.result.paths |= {"lora" if name == "transformer" else f"lora_{name}": file for name, file in files.items()}
    if losses:
        run.result.paths["loss_curve"] = run.folder / "loss.png"
        loss_curve(run.result.paths["loss_curve"], list(range(1, len(losses) + 1)), losses)
    return files


# ---- samples ---------------------------------------------------------------------------------------------------------


def _teach(run: Run, bench: Workbench) -> _Taught:
    """The samples of some segments spread over the clip, and of all references, encoded a segment at a time."""
    segments, references = run.job.segments, run.job.references if run.settings.reference_steps else {}
    shown = spread(segments, TAUGHT_SEGMENTS)
    asked = {index: next(segment for segment in segments if index in segment) for index in sorted(references)}
    wanted = [segment for segment in segments if segment in shown or segment in asked.values()]
    taught = _Taught()
    for part, segment in enumerate(wanted):
        lesson = bench.lesson(segment)
        if segment in shown:
            samples = _motion_samples(run, bench, segment, lesson, shown)
            taught.motion |= run.encoded(samples, part, len(wanted))
        inside = [index - segment.start for index, holder in asked.items() if holder == segment]
        if inside:
            taught.appearance |= run.encoded(_appearance_samples(run, lesson, inside), part, len(wanted))
    return taught


def _motion_samples(
    run: Run, bench: Workbench, segment: Segment, lesson: Lesson, shown: Sequence[Segment]
) -> list[Sample]:
    """A segment as it is, and in its share of the further looks that are asked for."""
    rng = np.random.default_rng((run.settings.train_seed, 3))
    prompt, hint, anchor = run.settings.source_prompt, lesson.taught, bench.anchor(edited=False)
    kept = [*range(1, segment.given), *(lesson.references if run.settings.anchors else ())]
    samples = []
    for look in range(run.settings.looks or 1):
        change = conditioning.recolour(rng) if look else _unchanged
        if look and (look - 1) % len(shown) != shown.index(segment):
            continue
        source = change(lesson.source)
        if run.settings.lora == "naive":
            sample = conditioning.naive_sample(source, prompt, kept)
        else:
            changed = Hint(change(hint.pixels), hint.trust) if hint else None
            sample = conditioning.motion_sample(source, lesson.mask, prompt, changed, kept)
        samples.append(replace(sample, image=change(anchor)))
    return samples


def _appearance_samples(run: Run, lesson: Lesson, references: Sequence[int]) -> list[Sample]:
    """One sample for each reference, given by its index in the segment."""
    hint, samples = lesson.from_first, []
    for index in references:
        at = slice(index, index + 1)
        carried = Hint(hint.pixels[at], hint.trust[at]) if hint else None
        samples.append(
            conditioning.appearance_sample(
                lesson.source[at], lesson.references[index], lesson.regions[index], run.settings.prompt, carried
            )
        )
    return samples


def _unchanged(pixels: Pixels) -> Pixels:
    return pixels


# ---- training --------------------------------------------------------------------------------------------------------


def _courses(run: Run, taught: _Taught) -> list[_Course]:
    settings, motion = run.settings.training(), taught.motion
    courses = [_Course("motion", motion, [1.0] * len(motion), settings)]
    if taught.appearance:
        weights = [1.0 / len(motion)] * len(motion) + [float(REFERENCE_SHARE)] * len(taught.appearance)
        longer = settings.model_copy(update={"steps": run.settings.reference_steps})
        courses.append(_Course("appearance", {**motion, **taught.appearance}, weights, longer))
    return courses


def _train_all(run: Run, expert: Expert, courses: Sequence[_Course]) -> Path:
    """One expert through all courses; the last one's LoRA file."""
    file = prior(run, expert)
    key = fingerprint(file.read_bytes()) if file else ""
    under = run.extra_keys() if run.settings.extra_in_training else []
    key = fingerprint(key, under) if under else key
    for course in courses:
        settings = course.settings.model_dump()
        key = run.key(key, expert.name, course.name, course.weights, settings, list(course.samples))
        start, file = file, run.folder / "lora" / f"{course.name}-{expert.name}-{key}.safetensors"
        state = run.folder / "checkpoints" / file.name
        kept = try_load_tensors(state, ("losses",))
        if kept is None or len(kept["losses"]) < course.settings.steps or try_load_tensors(file, ()) is None:
            _train(run, expert, course, start, state, file)
        else:
            run.result.reused.append(f"train {course.name}")
            run.result.losses += kept["losses"].tolist()
    assert file is not None
    return file


def prior(run: Run, expert: Expert) -> Path | None:
    """The LoRA to start from, if the settings ask for one and the checkpoint brings it."""
    file = run.job.card.prior(expert.name)
    return file if run.settings.prior and run.settings.lora == "motion" and file.exists() else None


def _train(run: Run, expert: Expert, course: _Course, start: Path | None, state: Path, file: Path) -> None:
    with run.phase("train"):
        transformer = run.family.load_transformer(expert, run.device)
        if run.settings.extra_in_training:
            stack(transformer, for_expert(run.job.extras, expert.name, run.job.card.experts))

        def on_loss(done: int, total: int, loss: float) -> None:
            run.progress("train", done, total, f"{expert.name} loss {loss:.4f}")
            if run.previews is not None:
                run.previews.trained(expert, transformer, done, total)

        stage = Stage(list(course.samples.values()), course.weights, start)
        run.result.losses += train(run.family, expert, transformer, stage, course.settings, state, on_loss, run.device)
        provenance = {
            "made_by": f"loraedit {__version__}",
            "base": run.settings.model,
            "kind": run.settings.lora,
            "training": course.settings.model_dump(),
        }
        save_lora(file, run.family, transformer, provenance)
