"""Masks without work: what an edit changes, and the thing it sits on, followed through the clip."""

from loraedit.tracking.auto import MARGIN, loose_tube, mask_from_edit
from loraedit.tracking.base import OnStep, Plane, Seeds, Tracker, no_step
from loraedit.tracking.changes import changed_region
from loraedit.tracking.embedded import FlowTracker
from loraedit.tracking.hints import Hints, seed_from_hints

__all__ = [
    "MARGIN",
    "FlowTracker",
    "Hints",
    "OnStep",
    "Plane",
    "Seeds",
    "Tracker",
    "changed_region",
    "loose_tube",
    "mask_from_edit",
    "no_step",
    "seed_from_hints",
]
