"""Plans a job that is about to run."""

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

__all__ = ["describe_resources", "fitting_notes", "largest_window", "resources_for", "segment_lengths"]


def resources_for(job: Job, device: torch.device, on_step: OnStep = no_step) -> Resources:
    """Returns the resources with which a job fits into a device; without a known memory limit, the user's own.

    Raises:
        InputError: the job cannot be made to fit.
    """
    settings = job.settings
    if processes() > 1:
        return _resources_of_several(settings)
    budget = parse_vram(settings.vram, device)
    if budget is None:
        return settings.resources(Resources())
    references = sum(len(target.references) for target in job.targets)
    work = work_of(
        job.card, settings, largest_window(job), segment_lengths(job), job.area_px, references, len(job.source)
    )
    plan = make_plan(job.card, settings.model, job.source.size, work, budget, settings.resources, on_step=on_step)
    if not plan.fits:
        raise InputError(plan.remedy())
    return plan.resources


def _resources_of_several(settings: ResolvedSettings) -> Resources:
    """Returns the resources of several processes, which share the weights between their devices without a plan.

    Raises:
        InputError: the user's settings would keep weights elsewhere.
    """
    resources = settings.resources(Resources(checkpointing=True))
    if resources.offload_blocks or resources.weights != "full":
        option = "--offload-blocks" if resources.offload_blocks else f"--weights {resources.weights}"
        raise InputError(f"{option} cannot be combined with several GPUs, which share the weights. Remove it.")
    return resources


def largest_window(job: Job) -> Size:
    """Returns the window of a job that is largest at the model's size, in pixels of the clip."""

    def working_area(window: Size) -> int:
        size = working_size(window, job.area_px, job.card.multiple_px)
        return size.height * size.width

    return max((target.window.size for target in job.targets), key=working_area)


def segment_lengths(job: Job) -> list[int]:
    """Returns the number of frames of each segment that is generated, for every target."""
    return [len(segment) for target in job.targets for segment in job.segments if target.edits(segment)]


def fitting_notes(resources: Resources) -> list[str]:
    """Returns a message about the memory measures in use, if there are any."""
    return [f"Memory measures in use: {used}."] if (used := describe_resources(resources)) else []


def describe_resources(resources: Resources) -> str:
    """Lists the memory measures in use, in words; empty if there are none."""
    used = resources.model_dump(exclude_defaults=True)
    return ", ".join(name.replace("_", " ") if value is True else f"{value} {name}" for name, value in used.items())
