"""``loraedit plan``: estimates what an edit costs before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from loraedit.cli.help_panels import INPUTS, MOST_USED
from loraedit.cli.input_options import MaskOption, Reference
from loraedit.cli.output import JsonOutput, print_json
from loraedit.cli.plan_tables import show_plan
from loraedit.cli.progress import Progress, quiet_libraries, show_progress
from loraedit.cli.setting_options import with_plan_settings
from loraedit.errors import InputError
from loraedit.settings import RECIPE_USES, EditSettings, RecipeName, make_settings, recipes_for
from loraedit.types import Size

if TYPE_CHECKING:
    from loraedit.families.card import ModelCard
    from loraedit.job.request import EditRequest
    from loraedit.planning import Plan, Work

__all__ = ["plan"]

ESTIMATE = "Estimate"

Works = Mapping[RecipeName, "Work | InputError"]
"""The work that each recipe would do with the clip, or the reason why it is refused; the one asked for comes first."""


@with_plan_settings
def plan(
    source: Annotated[str | None, typer.Argument(help="The clip. Without it, give --size and --frames.")] = None,
    first_frame: Annotated[
        str | None, typer.Option(help="The edited first frame of the clip.", rich_help_panel=MOST_USED)
    ] = None,
    mask: MaskOption = "auto",
    reference: Reference = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Without a clip: its size.", rich_help_panel=INPUTS)
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Without a clip: its number of frames.", rich_help_panel=INPUTS)
    ] = None,
    compare_recipes: Annotated[
        bool,
        typer.Option(
            "--compare-recipes",
            help="Also compare all recipes for this clip.",
            rich_help_panel=ESTIMATE,
        ),
    ] = False,
    efficiency: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1.0,
            help="The share of a GPU's published speed that you reach.  [default: each GPU's own]",
            rich_help_panel=ESTIMATE,
        ),
    ] = None,
    json_output: JsonOutput = False,
    **settings: Any,
) -> None:
    """Estimate the compute, memory, disk space and time of an edit. No weights are needed."""
    wanted = make_settings(settings)
    if source is not None and (first_frame is None or size is not None or frames is not None):
        raise InputError("A clip needs --first-frame, and neither --size nor --frames.")
    if source is None and (size is None or frames is None or first_frame is not None or reference):
        raise InputError("Give a clip and --first-frame, or --size and --frames without a clip.")
    with show_progress(Console(stderr=True)) as progress, _model_card(wanted) as card:
        recipes = recipes_for(wanted.recipe, card.recipe)
        recipes = recipes if compare_recipes else recipes[:1]
        if source is not None and first_frame is not None:
            from loraedit.job.edits import parse_references
            from loraedit.job.request import EditRequest

            request = EditRequest(source, first_frame, mask, parse_references(reference or []), settings=wanted)
            clip_size, works = _of_clip(request, recipes, card, progress)
        else:
            clip_size = _parse_size(size or "")
            works = _of_size(clip_size, frames or 0, wanted, recipes, card)
        found = _measure(card, wanted, clip_size, works, efficiency, progress)
    if json_output:
        print_json(found)
    else:
        show_plan(Console(), found)


def _model_card(wanted: EditSettings) -> AbstractContextManager[ModelCard]:
    from loraedit.families.skeleton import open_skeleton
    from loraedit.job.model import single_files

    return open_skeleton(wanted.model, single_files(wanted))


def _of_clip(
    request: EditRequest, recipes: Sequence[RecipeName], card: ModelCard, progress: Progress
) -> tuple[Size, Works]:
    from loraedit.job.prepare import prepare_recipes

    jobs = prepare_recipes(request, recipes, card, progress)
    from loraedit.planning import work_of_job  # imports torch, so only after the checks

    first = jobs[recipes[0]]
    assert not isinstance(first, InputError)
    return first.source.size, {
        name: job if isinstance(job, InputError) else _or_refusal(partial(work_of_job, job))
        for name, job in jobs.items()
    }


def _of_size(size: Size, frames: int, wanted: EditSettings, recipes: Sequence[RecipeName], card: ModelCard) -> Works:
    from loraedit.planning import work_of_size

    settings = {name: wanted.model_copy(update={"recipe": name}) for name in recipes}
    return {name: _or_refusal(partial(work_of_size, card, each, size, frames)) for name, each in settings.items()}


def _or_refusal(make: Callable[[], Work]) -> Work | InputError:
    try:
        return make()
    except InputError as error:
        return error


def _measure(
    card: ModelCard, wanted: EditSettings, size: Size, works: Works, efficiency: float | None, progress: Progress
) -> dict[str, Any]:
    """Returns the plan of the recipe asked for as JSON values, with a comparison if there are other recipes.

    Raises:
        InputError: the recipe asked for is refused.
    """
    from loraedit.planning import Limits, comparison, gpu_of, measure_device, parse_vram, plan_each, this_host_bytes
    from loraedit.runtime.devices import find_device

    asked, first = next(iter(works.items()))
    if isinstance(first, InputError):
        raise first
    quiet_libraries("diffusers", "transformers")
    device = find_device(wanted.device)
    possible = {name: work for name, work in works.items() if not isinstance(work, InputError)}
    budget, on_step = parse_vram(wanted.vram, device), progress.steps("plan")
    limits = None if budget is None else Limits(budget, this_host_bytes() if wanted.vram == "auto" else None)
    plans = plan_each(card, wanted.model, size, possible, limits, wanted.resources, efficiency, on_step)
    here = measure_device(device)
    found = {**plans[asked].as_json(), "here": plans[asked].on(here), "recipe": asked}
    found["on_this_host"] = _on_this_host(plans[asked], card, wanted)
    if len(works) == 1:
        return found
    rows: dict[RecipeName, dict[str, Any]] = comparison(plans, here, gpu_of(plans[asked]))
    rows |= {name: {"refused": str(why)} for name, why in works.items() if isinstance(why, InputError)}
    recipes = [{"recipe": name, "use": use, **rows[name]} for name, use in RECIPE_USES.items() if name in rows]
    return {**found, "recipes": recipes}


def _on_this_host(plan: Plan, card: ModelCard, wanted: EditSettings) -> dict[str, Any] | None:
    """Returns what an edit here would do instead where a plan for another machine's GPU needs more host memory.

    Returns:
        JSON values; None if this machine has enough.
    """
    from loraedit.planning import Limits, make_plan, this_host_bytes

    available = this_host_bytes()
    if plan.limits is None or plan.limits.host is not None or plan.host_peak_bytes <= available:
        return None
    limits = Limits(plan.limits.device, available)
    here = make_plan(card, plan.model, plan.frame, plan.work, limits, wanted.resources)
    resources, remedy = here.resources.model_dump(), here.remedy()
    return {"host_limit_bytes": available, "fits": here.fits, "resources": resources, "remedy": remedy}


def _parse_size(text: str) -> Size:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None or "0" in match.groups():
        raise InputError(f"The size '{text}' is not of the form WIDTHxHEIGHT, such as 832x480.")
    return Size(int(match[2]), int(match[1]))
