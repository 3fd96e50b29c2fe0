"""Automatic masks: finds what an edit changes, and tracks it through the clip with the object that it sits on."""

from loraedit.tracking.auto import LooseMaskOptions, loosen_mask, mask_from_edit, track_loose_mask
from loraedit.tracking.base import Box, Hints, Planes, Point, Stroke, Tracker
from loraedit.tracking.changes import changed_region, name_of_frame
from loraedit.tracking.embedded import FlowTracker
from loraedit.tracking.hints import seed_from_hints
from loraedit.tracking.regions import filled
from loraedit.tracking.tools import hulls, soft_border, steady
from loraedit.tracking.trackers import TRACKERS, TrackerName, open_tracker
from loraedit.tracking.view import View

__all__ = [
    "TRACKERS",
    "Box",
    "FlowTracker",
    "Hints",
    "LooseMaskOptions",
    "Planes",
    "Point",
    "Stroke",
    "Tracker",
    "TrackerName",
    "View",
    "changed_region",
    "filled",
    "hulls",
    "loosen_mask",
    "mask_from_edit",
    "name_of_frame",
    "open_tracker",
    "seed_from_hints",
    "soft_border",
    "steady",
    "track_loose_mask",
]
