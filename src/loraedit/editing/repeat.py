"""The workflow of ``loraedit repeat``: carries out the edit of a run folder again, from the folder's contents alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loraedit.editing import EditResult, run_edit
from loraedit.errors import InputError
from loraedit.job.edits import EditObject
from loraedit.job.prepare import Job, prepare
from loraedit.job.request import EditRequest
from loraedit.job.targets import EditTarget, Texts
from loraedit.runs.finished import Finished, read_finished
from loraedit.runs.folder import object_folder
from loraedit.runs.kept import Kept
from loraedit.runtime.devices import find_device
from loraedit.settings import EditSettings, make_settings, no_shaping, shapes_mask
from loraedit.storage.files import real
from loraedit.types import Progress
from loraedit.version import versions

__all__ = ["Repetition", "plan_repetition"]


@dataclass(frozen=True)
class Repetition:
    """An edit that can be carried out again.

    Attributes:
        job: the edit.
        differences: a sentence for each thing that has changed since, so that other bytes may come out.
    """

    job: Job
    differences: list[str]
    _before: Path
    _finished: Finished

    def carry_out(self, progress: Progress) -> tuple[EditResult, bool]:
        """Carries out the edit again.

        Returns:
            The result, and True if frames and LoRAs equal those of the run byte for byte.

        Raises:
            InputError, ModelError, CacheError: as :func:`loraedit.editing.run_edit`.
        """
        result = run_edit(self.job, progress)
        kept = [self._before / "lora" / Path(name).name for name in self._finished.loras]
        same = result.clip.fingerprint == self._finished.result.fingerprint
        return result, same and [_content(path) for path in result.lora_files] == [_content(path) for path in kept]


def plan_repetition(run: Path, out: Path | None, target: Path | None) -> Repetition:
    """Reads a finished run and makes a job of it.

    Args:
        run: the run folder to repeat; it is only read.
        out: where the result is wanted as a video or a folder, or None.
        target: the run folder to work in; None is beside ``out``, and without it beside ``run``.

    Raises:
        InputError: the run is not finished, damaged, or of another format; or the new folder lies in it.
        ModelError: its model no longer exists.
    """
    finished = read_finished(run)
    before = finished.provenance
    target = target or (out.with_name(f"{out.stem}-run") if out else run.absolute().with_name(f"{run.name}-repeat"))
    for place in (target, *([out] if out else [])):
        if real(place).is_relative_to(real(run)):
            raise InputError(f"'{place}' lies in the run folder that is to be repeated. Choose a place outside of it.")
    settings = make_settings(before.get("settings", {}))
    job = prepare(_request(finished, run, settings, out, target))
    used = {name: getattr(settings, name) for name in EditSettings.model_fields if shapes_mask(name)}
    job = replace(
        job,
        settings=job.settings.model_copy(update=used),
        objects=finished.objects,
        targets=_with_texts(job, before["texts"]),
    )
    return Repetition(job, _differences(before, job), run, finished)


def _request(finished: Finished, run: Path, settings: EditSettings, out: Path | None, target: Path) -> EditRequest:
    """Returns the request of a finished run, with masks as they were kept.

    The settings that shaped the masks have had their effect, and the prompt contains those of the objects already.
    """
    assert isinstance(finished.source, Kept)
    return EditRequest(
        finished.source,
        finished.edited_first,
        mask=None if finished.objects else run / "mask",
        references=finished.references,
        objects=[
            EditObject(each.name, object_folder(run, number) / "mask", each.keyframes)
            for number, each in enumerate(finished.objects)
        ],
        settings=settings.model_copy(update={**no_shaping(), "store": "none"}),
        out=out,
        run=target,
    )


def _with_texts(job: Job, texts: list[dict[str, Any]]) -> tuple[EditTarget, ...]:
    """Returns the targets of a job with the texts that the run used."""
    targets = []
    for target, each in zip(job.targets, texts, strict=True):
        references = {int(index): text for index, text in each["references"].items()}
        targets.append(replace(target, texts=Texts(each["source"], each["edited"], references)))
    return tuple(targets)


def _differences(before: dict[str, Any], job: Job) -> list[str]:
    """Returns what decides the bytes of a result and has changed; hashes prove that clip, mask and edits have not."""
    extras = [extra.key for extra in job.extras]
    old = {**before.get("versions", {}), "device": before.get("device")}
    new = {**versions(), "device": str(find_device(job.settings.device))}
    differences = [
        f"{name} is {new.get(name)}, but was {old.get(name)} in the run."
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if before["inputs"].get("model") != job.card.fingerprint():
        differences.append("The model is not the one of the run: its fingerprint differs.")
    if before["inputs"].get("extra_loras") != extras:
        differences.append("The extra LoRAs are not those of the run: their contents differ.")
    return differences


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
