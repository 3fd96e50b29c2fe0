"""The plan of a job that is about to run."""

from __future__ import annotations

import torch

from loraedit.errors import InputError
from loraedit.job.prepare import Job
from loraedit.planning.fitting import parse_vram
from loraedit.planning.plan import make_plan, work_of
from loraedit.runtime.ranks import processes
from loraedit.settings import ResolvedSettings, Resources
from loraedit.types import OnStep, Size, no_step
from loraedit.video.scaling import working_size

__all__ = ["lengths", "named", "resources_for", "seen", "told"]


def resources_for(job: Job, device: torch.device, on_step: OnStep = no_step) -> Resources:
    """How a job fits into a device; without a limit to its memory, what the user set and nothing more.

    Raises:
        InputError: it cannot be made to fit.
    """
    settings = job.settings
    if processes() > 1:
        return _shared(settings)
    budget = parse_vram(settings.vram, device)
    if budget is None:
        return settings.resources(Resources())
    references = sum(len(target.references) for target in job.targets)
    work = work_of(job.card, settings, seen(job), lengths(job), job.area_px, references, len(job.source))
    plan = make_plan(job.card, settings.model, job.source.size, work, budget, settings.resources, on_step=on_step)
    if not plan.fits:
        raise InputError(plan.remedy())
    return plan.resources


def _shared(settings: ResolvedSettings) -> Resources:
    """For several processes, whose weights are spread over their devices; plans reckon with one.

    Raises:
        InputError: the weights are to be elsewhere too.
    """
    resources = settings.resources(Resources(checkpointing=True))
    if resources.offload_blocks or resources.weights != "full":
        what = "--offload-blocks" if resources.offload_blocks else f"--weights {resources.weights}"
        raise InputError(f"{what} does not go with several cards, which share the weights. Leave it out.")
    return resources


def seen(job: Job) -> Size:
    """The window of a job that costs the model most, in pixels of the clip."""

    def worked(window: Size) -> int:
        size = working_size(window, job.area_px, job.card.multiple_px)
        return size.height * size.width

    return max((target.window.size for target in job.targets), key=worked)


def lengths(job: Job) -> list[int]:
    """How many frames each segment has that is generated, in every target."""
    return [len(segment) for target in job.targets for segment in job.segments if target.edits(segment)]


def told(resources: Resources) -> list[str]:
    """A sentence on the means in use, if there are any."""
    return [f"Fitted into the device's memory by: {used}."] if (used := named(resources)) else []


def named(resources: Resources) -> str:
    """The means in use, in words; empty if there are none."""
    used = resources.model_dump(exclude_defaults=True)
    return ", ".join(name.replace("_", " ") if value is True else f"{value} {name}" for name, value in used.items())
