"""What an edit will cost, before anything loads: measured on the true architecture with tensors that hold nothing."""

from __future__ import annotations

from loraedit.planning.cost import Cost, Shape, measure_cost
from loraedit.planning.fitting import MARGIN_BYTES, fit, fits, parse_vram, spare
from loraedit.planning.here import card_here
from loraedit.planning.job import lengths, named, resources_for, seen, told
from loraedit.planning.plan import Plan, Work, make_plan, reference_flops, work_of
from loraedit.planning.skeleton import known_names, open_skeleton

__all__ = [
    "MARGIN_BYTES",
    "Cost",
    "Plan",
    "Shape",
    "Work",
    "card_here",
    "fit",
    "fits",
    "known_names",
    "lengths",
    "make_plan",
    "measure_cost",
    "named",
    "open_skeleton",
    "parse_vram",
    "reference_flops",
    "resources_for",
    "seen",
    "spare",
    "told",
    "work_of",
]
