"""Predicts what an edit costs before any weights load, by running the true architecture on tensors without contents."""

from __future__ import annotations

from loraedit.planning.comparison import comparison, gpu_of, plan_each
from loraedit.planning.cost import measure_cost
from loraedit.planning.fitting import MARGIN_BYTES, Fitting, Limits, fits, parse_vram, save_more
from loraedit.planning.host import this_host_bytes
from loraedit.planning.job import (
    LIGHTER,
    describe_resources,
    fitting_notes,
    resources_for,
    work_of_job,
    work_of_size,
)
from loraedit.planning.phase_cost import Cost, Shape
from loraedit.planning.plan import Plan, make_plan
from loraedit.planning.this_device import measure_device
from loraedit.planning.work import Work, work_of

__all__ = [
    "LIGHTER",
    "MARGIN_BYTES",
    "Cost",
    "Fitting",
    "Limits",
    "Plan",
    "Shape",
    "Work",
    "comparison",
    "describe_resources",
    "fits",
    "fitting_notes",
    "gpu_of",
    "make_plan",
    "measure_cost",
    "measure_device",
    "parse_vram",
    "plan_each",
    "resources_for",
    "save_more",
    "this_host_bytes",
    "work_of",
    "work_of_job",
    "work_of_size",
]
