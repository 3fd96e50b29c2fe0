"""Plans a job that is about to run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from loraedit.errors import InputError
from loraedit.families.card import ModelCard
from loraedit.job.card_checks import check_against_card
from loraedit.job.prepare import Job
from loraedit.job.segments import cut_in_time
from loraedit.lora.extra import parse_extra, settle_distilled
from loraedit.lora.opening import check_header
from loraedit.planning.fitting import Limits, parse_vram
from loraedit.planning.host import this_host_bytes
from loraedit.planning.plan import Plan, make_plan
from loraedit.planning.work import Work, work_of, work_of_all
from loraedit.runs.folder import SETTINGS_FILE
from loraedit.runtime.ranks import processes
from loraedit.settings import EditSettings, ResolvedSettings, Resources
from loraedit.storage.files import read_json
from loraedit.types import OnStep, Size, no_step
from loraedit.video.decoding import MAX_FRAMES

__all__ = [
    "LIGHTER",
    "describe_resources",
    "fitting_notes",
    "resources_for",
    "work_of_job",
    "work_of_size",
]

LIGHTER = (
    "The weights are held in fewer bits, which changes the result a little. --weights full holds them as they are."
)
"""Said where quantised weights were chosen."""


def resources_for(job: Job, device: torch.device, on_step: OnStep = no_step) -> Resources:
    """Returns the resources with which a job fits into a device; without a known memory limit, the user's own.

    Raises:
        InputError: the job cannot be made to fit.
    """
    settings = job.settings
    if processes() > 1:
        return _resources_of_several(settings, job.card)
    budget = parse_vram(settings.vram, device)
    if budget is None:
        return settings.resources(Resources())
    limits, earlier = Limits(budget, this_host_bytes()), _earlier_choice(job)

    def planned(chosen: Mapping[str, Any]) -> Plan:
        def apply_user(resources: Resources) -> Resources:
            return settings.resources(resources.model_copy(update=chosen))

        work = work_of_job(job)
        return make_plan(job.card, settings.model, job.source.size, work, limits, apply_user, on_step=on_step)

    plan = planned(earlier)
    if earlier and not plan.fits:
        plan = planned({})
    if not plan.fits:
        raise InputError(plan.remedy())
    return plan.resources


def _earlier_choice(job: Job) -> dict[str, Any]:
    """Returns the resources that change results as an earlier run in the same folder had them, if there was one.

    Otherwise the memory that happens to be free would decide whether the run continues or starts again.
    """
    if job.run is None:
        return {}
    try:
        resources = Resources.model_validate(read_json(job.run / SETTINGS_FILE)["resources"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {"weights": resources.weights, "tile_vae": resources.tile_vae}


def _resources_of_several(settings: ResolvedSettings, card: ModelCard) -> Resources:
    """Returns the resources of several processes, which share the weights between their devices without a plan.

    Raises:
        InputError: the user's settings would keep weights elsewhere.
    """
    resources = settings.resources(Resources(checkpointing=True, reload_weights=True))  # each keeps its own
    if resources.swap_blocks or resources.weights not in ("auto", "full"):
        option = "--swap-blocks" if resources.swap_blocks else f"--weights {resources.weights}"
        raise InputError(f"{option} cannot be combined with several GPUs, which share the weights. Remove it.")
    quantised = [file.path for file in card.files.values() if file.kinds]
    if quantised and resources.weights == "auto":
        raise InputError(
            f"'{quantised[0]}' is quantised, and several GPUs share full weights only. Add --weights full, or use one."
        )
    return resources


def work_of_job(job: Job) -> Work:
    """Returns the work of a job: that of all its edit targets, each of which is trained by itself."""
    works = []
    for target in job.targets:
        lengths = [len(segment) for segment in job.segments if target.edits(segment)]
        size = job.card.working_size(target.window.size, job.settings)
        references, frames = len(target.references), len(job.source)
        works.append(work_of(job.card, job.settings, size, lengths, references, frames, target.texts))
    return work_of_all(works)


def work_of_size(card: ModelCard, wanted: EditSettings, size: Size, frames: int) -> Work:
    """Returns the work of editing the whole frame of a clip of which only size and length are known.

    Raises:
        InputError: the model or an extra LoRA does not go with the settings, or the clip is too long or too narrow.
        ModelError: an extra LoRA cannot be read.
    """
    if frames > MAX_FRAMES:
        raise InputError(f"A clip has at most {MAX_FRAMES} frames, not {frames}. Plan for a shorter one.")
    extras = [parse_extra(text) for text in wanted.extra_lora]
    for extra in extras:
        check_header(extra.path)
    settings = settle_distilled(wanted, extras, card)[0].resolved(card.recipe)
    check_against_card(settings, card)
    lengths = [len(segment) for segment in cut_in_time(frames, [size], settings, card)]
    return work_of(card, settings, card.working_size(size, settings), lengths, 0, frames)


def fitting_notes(resources: Resources) -> list[str]:
    """Returns messages about the memory measures in use, if there are any."""
    notes = [f"Memory measures in use: {used}."] if (used := describe_resources(resources)) else []
    return notes + ([LIGHTER] if resources.weights not in ("auto", "full") else [])


def describe_resources(resources: Resources) -> str:
    """Lists the memory measures in use, in words; empty if there are none."""
    used = resources.model_dump(exclude_defaults=True)
    if resources.weights == "full":  # asked for, but no measure
        del used["weights"]
    return ", ".join(_in_words(name, value) for name, value in used.items())


def _in_words(name: str, value: Any) -> str:
    if name == "swap_blocks":
        return f"{value} swapped block{'' if value == 1 else 's'}"
    return name.replace("_", " ") if value is True else f"{value} {name.replace('_', ' ')}"
