"""The pipeline of an edit, from the checked request to the edited clip.

    prepare   caption, plan memory, open the model
    train     for each edit target: samples of some segments -> encode -> train the LoRA
    generate  for each edit target, segment by segment: condition -> encode -> sample -> decode -> fade
    finish    composite on the source's own frames -> write

Several edit targets are trained and generated in order, each on top of those before it.

Each stage leaves files in the run folder, named by the content of everything that they depend on. The same command
again finds these files and continues where it stopped. Another first frame, prompt or seed reuses the motion LoRA of
the same clip and mask. ``RUN/settings.json`` records what was used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from loraedit.diffusion.samples import Sample
from loraedit.editing.ahead import Ahead, works_ahead
from loraedit.editing.cache import StageCache
from loraedit.editing.captions import captioned
from loraedit.editing.context import EditContext, open_context
from loraedit.editing.finish import FinishedFiles, finish
from loraedit.editing.generate import TargetGeneration, first_condition, first_edited
from loraedit.editing.pieces import composited_rgb_below, discard_pieces
from loraedit.editing.preparation import Preparation
from loraedit.editing.prepared_segment import prepare_generation
from loraedit.editing.preview import Previews, preview_notes, wants_first_preview, wants_previews
from loraedit.editing.reporter import Reporter
from loraedit.editing.result import EditFiles, EditResult
from loraedit.editing.segment_inputs import carry_first_segment
from loraedit.editing.target_clip import TargetClip, open_target_clip, over_lower_targets
from loraedit.editing.train import TargetTraining, TrainedCourse
from loraedit.families.kept_weights import keeping_weights
from loraedit.families.loading import free
from loraedit.families.registry import block_count
from loraedit.job.captioner import wants_captions
from loraedit.job.device_checks import check_against_device
from loraedit.job.prepare import Job
from loraedit.planning import describe_resources, fitting_notes, resources_for, save_more
from loraedit.runs.folder import SETTINGS_FILE, check_format
from loraedit.runs.kept import in_memory
from loraedit.runs.pictures import loss_curve
from loraedit.runtime.devices import find_device, use
from loraedit.storage.files import write_json
from loraedit.storage.locks import LOCK_FILE, sole_user
from loraedit.storage.lora_store import open_store
from loraedit.types import Clip, Footage, Progress, no_progress

__all__ = ["run_edit"]

ENCODING = ("encode", "decode")
"""Phases in which encoders and VAE use the memory; in all others the transformer does."""

LOSS_FILE = "loss.png"


@dataclass(frozen=True)
class _EditedTarget:
    """What the edit of one target leaves.

    Attributes:
        courses: the finished training courses of all experts; empty without a LoRA.
        loras: the LoRA file by expert.
        latents_reused: True if the cache had all latents.
        preview: the latest preview.
    """

    courses: list[TrainedCourse]
    loras: dict[str, Path]
    latents_reused: bool
    preview: Path | None


def run_edit(job: Job, progress: Progress = no_progress) -> EditResult:
    """Carries out an edit.

    Raises:
        InputError: another process works in the run folder, or a later loraedit made it.
        ModelError: the checkpoint or a LoRA cannot be loaded.
        torch.OutOfMemoryError: the edit does not fit into the device, whatever saves memory.
        CacheError: a file of the run folder is damaged.
    """
    if job.run is not None:
        with _locked(job.run):
            check_format(job.run)
            return _edit(job, job.run, progress, isinstance(job.source, Clip))
    with tempfile.TemporaryDirectory(prefix="loraedit-") as folder:
        return _edit(job, Path(folder), progress, True)


def _edit(job: Job, folder: Path, progress: Progress, to_memory: bool) -> EditResult:
    """Prepares the edit and carries it out. If the device's memory runs out, continues with the next memory saving.

    Args:
        job: the checked request.
        folder: the run folder.
        progress: the caller's listener.
        to_memory: read the result into memory at the end.
    """
    reporter = Reporter(folder, progress, (*job.notes, *preview_notes(job.settings)))
    device, store = find_device(job.settings.device), open_store(job.settings.store)
    use(device)
    job = replace(job, card=job.card.held_on(device.type))
    check_against_device(job.settings, job.card, device)
    if wants_captions(job.settings):
        job, note = captioned(job, folder / "cache", device, reporter.on_step("caption"))
        reporter.notes.append(note)
    resources = resources_for(job, device, reporter.on_step("plan"))
    reporter.notes += fitting_notes(resources)
    while True:
        try:
            with keeping_weights(reporter.component_read):
                return _carry_out(open_context(job, folder, device, resources, store), reporter, to_memory)
        except torch.OutOfMemoryError:
            phase = reporter.current_phase
            lower = save_more(resources, phase in ENCODING, block_count(job.card), job.settings.resources)
            if lower is None:
                raise
            resources = lower
        free()  # after the handler, because the traceback refers to tensors on the device
        measures = describe_resources(resources)
        reporter.notes.append(f"The device's memory ran out ({phase}), so the run went on with {measures}.")


def _carry_out(context: EditContext, reporter: Reporter, to_memory: bool) -> EditResult:
    """Trains and generates every edit target, and writes the result."""
    if context.settings.profile:
        reporter.profile.watch(context.family, context.device)
    write_json(context.folder / SETTINGS_FILE, context.provenance())
    discard_pieces(context.folder)
    targets: list[_EditedTarget] = []
    with Ahead(works_ahead(context.device, context.settings)) as ahead:
        for number in range(len(context.job.targets)):
            targets.append(_edit_target(context, reporter, ahead, number, _losses(targets)))
    loras = [path for target in targets for path in target.loras.values()]
    with reporter.phase("compose") as on_step:
        finished = finish(context, _losses(targets), loras, on_step)
        clip = in_memory(finished.clip) if to_memory else finished.clip
    reporter.notes += finished.notes
    return _result(context, reporter, targets, finished, clip)


def _edit_target(
    context: EditContext, reporter: Reporter, ahead: Ahead, number: int, losses_before: list[float]
) -> _EditedTarget:
    """Trains the LoRA of an edit target, and generates the target on top of those before it.

    Args:
        context: the edit.
        reporter: reports it.
        ahead: works on the CPU while the device trains or samples.
        number: index of the target.
        losses_before: the losses of the targets before, for the loss curve.
    """
    cache = StageCache(context, reporter)
    parts = 2 if context.settings.lora == "none" else 3  # the training prepares its samples in the third
    with reporter.phase("prepare", 0, parts) as on_step:
        clip = open_target_clip(context.job, context.job.targets[number], on_step)
        shown = first_condition(context, clip) if number == 0 and wants_previews(context) else None
    previews = _open_previews(context, cache, reporter, clip, shown) if shown else None
    with reporter.phase("prepare", 1, parts) as on_step:
        carried = carry_first_segment(clip, on_step)
    upper = over_lower_targets(clip, composited_rgb_below(context, number)) if number else clip
    upper_carried = None if number else carried
    carries = context.settings.carries and upper_carried is None
    preparation = Preparation(ahead, upper, prepare_generation, carries)

    courses: list[TrainedCourse] = []
    if context.settings.lora != "none":
        start_next = partial(preparation.start, first_edited(upper))
        courses = TargetTraining(context, cache, reporter, clip, carried, previews, ahead, start_next).run()
    losses = losses_before + [loss for course in courses for loss in course.losses]
    if losses:
        loss_curve(context.folder / LOSS_FILE, range(1, len(losses) + 1), losses)
    loras = {course.expert: course.file for course in courses}  # that of an expert's last course

    found = TargetGeneration(context, cache, reporter, upper, upper_carried, preparation, number, loras, previews).run()
    return _EditedTarget(courses, loras, found, previews.latest if previews else None)


def _open_previews(
    context: EditContext, cache: StageCache, reporter: Reporter, clip: TargetClip, condition: Sample
) -> Previews:
    """Returns the previews of the first target, the one before training made if it is wanted."""
    priors = {expert.name: file for expert in context.family.experts if (file := context.prior_file(expert))}
    previews = Previews(context, cache, reporter, clip, condition, priors)
    if wants_first_preview(context):
        previews.start()
    return previews


def _result(
    context: EditContext, reporter: Reporter, targets: Sequence[_EditedTarget], finished: FinishedFiles, clip: Footage
) -> EditResult:
    """Puts the result together, and writes the profile if the settings ask for it."""
    losses, folder, profile = _losses(targets), context.folder, None
    if context.settings.profile:
        profile = folder / "profile.json"
        write_json(profile, reporter.profile.as_json())
    files = EditFiles(
        run=folder,
        settings=folder / SETTINGS_FILE,
        frames=finished.frames,
        sheet=finished.sheet,
        side_by_side=finished.side_by_side,
        loras=tuple(target.loras for target in targets),
        out=context.job.out,
        loss_curve=folder / LOSS_FILE if losses else None,
        preview=targets[0].preview,
        profile=profile,
    )
    found = [course for target in targets for course in target.courses if course.reused]
    sampled = not all(target.latents_reused for target in targets)
    return EditResult(
        clip=clip,
        files=None if context.job.run is None else files,
        wall_seconds=reporter.wall_seconds,
        phase_seconds=reporter.phase_seconds,
        losses=losses,
        reused=[f"train {course.name}" for course in found] + ([] if sampled else ["sample"]),
        saved_steps=sum(len(course.losses) for course in found),
        saved_seconds=sum(course.saved_seconds for course in found),
        outside_exact=finished.outside_exact,
        profile=reporter.profile.rows() if profile else [],
        notes=reporter.notes,
    )


def _losses(targets: Sequence[_EditedTarget]) -> list[float]:
    """Returns the losses of all training steps of the targets, in order."""
    return [loss for target in targets for course in target.courses for loss in course.losses]


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Holds the lock of a run folder. If the work fails before it writes anything, a new folder is removed again."""
    new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    with sole_user(run):
        try:
            yield
        except BaseException:
            with suppress(OSError):
                if new and [path.name for path in run.iterdir()] == [LOCK_FILE]:
                    (run / LOCK_FILE).unlink()
                    run.rmdir()
            raise
