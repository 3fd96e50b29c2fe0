"""The stages of an edit in their order.

    lessons   samples of some segments -> encode -> train the LoRA
    scenes    segment by segment: condition -> encode -> sample -> decode -> fade into the segment before
    finish    composite on the source's own frames -> write

Several targets go through lessons and scenes one after the other, each on top of those before it.

Each stage leaves files in the run folder, named by the content of all that they depend on. Running again with the same
inputs finds those files and goes on where the last run stopped; another first frame, prompt or seed finds the motion
LoRA of the same clip and mask. ``RUN/settings.json`` says what was used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from loraedit.editing.finish import finish
from loraedit.editing.generate import first_condition, generate
from loraedit.editing.pieces import discard_pieces, rgb_up_to
from loraedit.editing.preview import Previews
from loraedit.editing.run import EditResult, Progress, Run
from loraedit.editing.segment_inputs import carry_first_segment
from loraedit.editing.target_clip import open_target_clip, over_lower_targets
from loraedit.editing.train import learn, prior
from loraedit.families.loading import free
from loraedit.job.prepare import Job
from loraedit.planning import named, spare
from loraedit.runs.folder import SETTINGS_FILE, check_format
from loraedit.storage.files import write_json
from loraedit.storage.locks import LOCK_FILE, sole_user
from loraedit.types import Clip

__all__ = ["run_edit"]

ENCODING = ("encode", "decode")
"""Phases of encoders and VAE; in all others memory is the transformer's."""


def run_edit(job: Job, progress: Progress = lambda *_: None) -> EditResult:
    """Carry out a job.

    Raises:
        InputError: another process works in the run folder, or a later loraedit made it.
        ModelError: the checkpoint or a LoRA cannot be loaded.
        torch.OutOfMemoryError: it does not fit into the device by any means.
        CacheError: a file of the run folder is damaged.
    """
    if job.run is not None:
        with _at_work_in(job.run):
            check_format(job.run)
            return _fitted(job, job.run, progress, isinstance(job.source, Clip))
    with tempfile.TemporaryDirectory(prefix="loraedit-") as folder:
        result = _fitted(job, Path(folder), progress, True)
        result.paths = {}
        return result


@contextmanager
def _at_work_in(run: Path) -> Iterator[None]:
    """Hold a run folder; one that is new goes again if the work fails before anything is in it."""
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


def _fitted(job: Job, folder: Path, progress: Progress, in_memory: bool) -> EditResult:
    """All stages, and if the device's memory runs out, on from there with the next means that save some."""
    notes: list[str] = []
    run = Run(job, folder, progress)
    while True:
        try:
            result = _carry_out(run, in_memory)
            result.notes += notes
            return result
        except torch.OutOfMemoryError:
            phase, used = run.under_way, run.resources
            lower = spare(used, phase in ENCODING, job.settings.resources)
            if lower is None:
                raise
        run.previews = None
        del run  # with what it had on the device
        free()
        notes.append(f"The device's memory ran out ({phase}), so the run went on with {named(lower)}.")
        run = Run(job, folder, progress, lower)


def _carry_out(run: Run, in_memory: bool) -> EditResult:
    """All stages, in order.

    Args:
        in_memory: read the result into memory at the end.
    """
    run.result.paths["settings"] = run.folder / SETTINGS_FILE
    write_json(run.result.paths["settings"], run.provenance())
    discard_pieces(run.folder)
    found = [_make_target(run, number) for number in range(len(run.job.targets))]
    run.result.reused += ["sample"] if all(found) else []
    with run.phase("compose") as on_step:
        finish(run, in_memory, on_step)
    if run.settings.profile:
        run.result.profile = run.profile.rows()
        run.result.paths["profile"] = run.folder / "profile.json"
        write_json(run.result.paths["profile"], run.profile.as_json())
    return run.result


def _make_target(run: Run, number: int) -> bool:
    """Learn a target, and generate it on top of those before it; whether all that is generated was found.

    Args:
        number: which one, from 0. The first has the previews.
    """
    with run.phase("prepare", number, len(run.job.targets)) as on_step:
        clip = open_target_clip(run.job, run.job.targets[number], on_step)
    if number == 0 and Previews.wanted(run):
        priors = {expert.name: file for expert in run.family.experts if (file := prior(run, expert))}
        run.previews = Previews(run, clip, first_condition(run, clip), priors)
        if Previews.cheap(run):
            run.previews.start()
    carried = carry_first_segment(clip)
    loras = learn(run, clip, number, carried) if run.settings.lora != "none" else {}
    if number:
        clip, carried = over_lower_targets(clip, rgb_up_to(run, number)), None
    found = generate(run, clip, number, loras, carried)
    run.previews = None
    return found
