"""The workflow of ``loraedit repeat``: the edit of a run folder once more, from what the folder keeps alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loraedit.editing import EditResult, Progress, run_edit
from loraedit.errors import InputError
from loraedit.job.edits import EditObject
from loraedit.job.prepare import Job, prepare
from loraedit.job.request import EditRequest
from loraedit.runs.folder import Finished, Kept, object_folder, read_finished
from loraedit.runtime.devices import find_device
from loraedit.settings import EditSettings, make_settings, shapes_mask
from loraedit.storage.files import real
from loraedit.version import versions

__all__ = ["Repetition", "plan_repetition"]

_ABOUT_MASK = tuple(filter(shapes_mask, EditSettings.model_fields))
"""Settings that have done their part in the mask that a run keeps."""


@dataclass(frozen=True)
class Repetition:
    """An edit that can be carried out again.

    Attributes:
        job: what to do.
        differences: a sentence for each thing that is no longer as it was, so that other bytes may come out.
    """

    job: Job
    differences: list[str]
    _before: Path
    _finished: Finished

    def carry_out(self, progress: Progress) -> tuple[EditResult, bool]:
        """Edit again; the result, and whether frames and LoRAs equal those of the run to the byte.

        Raises:
            InputError, ModelError, CacheError: as :func:`loraedit.editing.run_edit`.
        """
        result = run_edit(self.job, progress)
        kept = [self._before / "lora" / Path(name).name for name in self._finished.loras]
        same = result.clip.fingerprint == self._finished.result.fingerprint
        return result, same and [_content(path) for path in result.lora_files] == [_content(path) for path in kept]


def plan_repetition(run: Path, out: Path | None, target: Path | None) -> Repetition:
    """Read a finished run and make a job of it.

    Args:
        run: the run folder to repeat; it is only read.
        out: where the result is wanted as a video or a folder, or None.
        target: the run folder to work in; None is beside ``out``, and without it beside ``run``.

    Raises:
        InputError: the run is not finished, damaged, or of another format; or the new folder lies in it.
        ModelError: its model is not there any more.
    """
    finished = read_finished(run)
    before = finished.provenance
    target = target or (out.with_name(f"{out.stem}-run") if out else run.absolute().with_name(f"{run.name}-repeat"))
    for place in (target, *([out] if out else [])):
        if real(place).is_relative_to(real(run)):
            raise InputError(f"'{place}' lies in the run folder that is to be repeated. Choose a place outside of it.")
    settings = make_settings(before.get("settings", {}))
    plain = {name: EditSettings.model_fields[name].default for name in _ABOUT_MASK}
    objects = [
        EditObject(each.name, object_folder(run, number) / "mask", each.keyframes)
        for number, each in enumerate(finished.objects)
    ]
    assert isinstance(finished.source, Kept)
    request = EditRequest(
        finished.source,
        finished.edited_first,
        None if objects else run / "mask",
        finished.references,
        objects,
        settings.model_copy(update=plain | {"store": "none"}),
        out,
        target,
    )
    job = prepare(request)
    job = replace(job, objects=finished.objects)  # what was said of them stands in the prompt already
    job = replace(job, settings=job.settings.model_copy(update={name: getattr(settings, name) for name in _ABOUT_MASK}))
    return Repetition(job, _differences(before, job), run, finished)


def _differences(before: dict[str, Any], job: Job) -> list[str]:
    """What decides the bytes of a result and is not as it was; the clip, mask and edits are, as their hashes say."""
    extras = [extra.key for extra in job.extras]
    old = {**before.get("versions", {}), "device": before.get("device")}
    new = {**versions(), "device": str(find_device(job.settings.device))}
    told = [
        f"{name} is {new.get(name)}, but was {old.get(name)} in the run."
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if before["inputs"].get("model") != job.card.fingerprint():
        told.append("The model is not the one of the run: its fingerprint differs.")
    if before["inputs"].get("extra_loras") != extras:
        told.append("The extra LoRAs are not those of the run: their contents differ.")
    return told


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
