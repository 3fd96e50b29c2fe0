"""Masks without work: what an edit changes, and the thing it sits on, followed through the clip."""

from loraedit.tracking.auto import MARGIN, loose_tube, mask_from_edit, tight_tube
from loraedit.tracking.base import Plane, Seeds, Tracker
from loraedit.tracking.changes import changed_region, name_of_frame
from loraedit.tracking.embedded import FlowTracker
from loraedit.tracking.hints import Hints, seed_from_hints

__all__ = [
    "MARGIN",
    "FlowTracker",
    "Hints",
    "Plane",
    "Seeds",
    "Tracker",
    "changed_region",
    "loose_tube",
    "mask_from_edit",
    "name_of_frame",
    "seed_from_hints",
    "tight_tube",
]
