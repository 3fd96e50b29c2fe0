"""Plans one edit under several recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loraedit.families.card import ModelCard
from loraedit.planning.fitting import Limits
from loraedit.planning.gpus import GPUS, Gpu
from loraedit.planning.plan import Plan, make_plan
from loraedit.planning.progress import GrowingCount
from loraedit.planning.work import Work
from loraedit.settings import RecipeName, Resources
from loraedit.types import OnStep, Size, no_step

__all__ = ["comparison", "gpu_of", "plan_each"]


def plan_each(
    card: ModelCard,
    model: str,
    frame: Size,
    works: Mapping[RecipeName, Work],
    limits: Limits | None,
    apply_user: Callable[[Resources], Resources],
    efficiency: float | None = None,
    on_step: OnStep = no_step,
) -> dict[RecipeName, Plan]:
    """Returns the plan of each work; see :func:`loraedit.planning.plan.make_plan` for the arguments.

    Works of one shape and LoRA share their measurements.

    Args:
        on_step: called with the phases measured and the phases in all as far as they are known. Works that share their
            measurements count once.
    """
    count = GrowingCount(on_step, len(set(map(_measured, works.values()))))
    plans: dict[RecipeName, Plan] = {}
    for name, work in works.items():
        is_new = all(_measured(work) != _measured(plan.work) for plan in plans.values())
        steps = count.next_part() if is_new else no_step
        plans[name] = make_plan(card, model, frame, work, limits, apply_user, efficiency, steps)
    return plans


def _measured(work: Work) -> tuple[Any, ...]:
    """Returns everything of a work that a measurement depends on."""
    return work.shape, work.uses, work.train.rank, work.train.lora_targets, work.train.batch_size


def gpu_of(plan: Plan) -> Gpu:
    """Returns the first GPU of the list that holds the edit as planned, or else the last."""
    return next((gpu for gpu in GPUS if plan.fits_on(gpu)), GPUS[-1])


def comparison(plans: Mapping[RecipeName, Plan], here: Gpu, gpu: Gpu) -> dict[RecipeName, dict[str, Any]]:
    """Returns the figures in which recipes differ, as JSON values.

    Args:
        here: this machine's device.
        gpu: another one, for all recipes.
    """
    paper = plans.get("paper")
    return {
        name: {
            "train_steps": plan.work.train_steps,
            "may_stop_early": plan.work.may_stop_early,
            "sampling_forwards": plan.work.passes,
            "window": str(plan.work.shape.size),
            "total_flops": plan.total_flops,
            "paper_share": plan.total_flops / paper.total_flops if paper else None,
            "peak_bytes": max(cost.peak_bytes for cost in plan.costs.values()),
            "here": plan.on(here),
            "gpu": plan.on(gpu),
        }
        for name, plan in plans.items()
    }
