"""Predicts what an edit costs before any weights load, by running the true architecture on tensors without contents."""

from __future__ import annotations

from loraedit.planning.cost import Cost, Shape, measure_cost
from loraedit.planning.fitting import MARGIN_BYTES, choose_resources, fits, parse_vram, save_more
from loraedit.planning.job import describe_resources, fitting_notes, largest_window, resources_for, segment_lengths
from loraedit.planning.plan import Plan, Work, make_plan, reference_flops, work_of
from loraedit.planning.this_device import measure_device

__all__ = [
    "MARGIN_BYTES",
    "Cost",
    "Plan",
    "Shape",
    "Work",
    "choose_resources",
    "describe_resources",
    "fits",
    "fitting_notes",
    "largest_window",
    "make_plan",
    "measure_cost",
    "measure_device",
    "parse_vram",
    "reference_flops",
    "resources_for",
    "save_more",
    "segment_lengths",
    "work_of",
]
