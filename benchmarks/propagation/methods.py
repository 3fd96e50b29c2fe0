"""Defines how an edited clip is made from a case: by the package, and in simpler ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import loraedit
from benchmarks.propagation.cases import Case
from loraedit.masks.shaping import dilate
from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.estimators import open_estimator
from loraedit.optical_flow.fields import pixel_grid, sample_at
from loraedit.propagation.carry import carry_edits
from loraedit.types import Frames, Image, Mask, Size

__all__ = ["OURS", "Method", "best_of_carried", "carried", "held_still", "optical_flow", "unchanged"]

OURS = "motion LoRA"
"""The package with its defaults."""


@dataclass(frozen=True)
class Method:
    """Describes one way to make the edited clip.

    Attributes:
        make: takes a case and its edited frames by index (including the first), and returns frames ``[F, H, W, 3]``;
            None runs the package with ``settings``.
        settings: of :class:`loraedit.settings.EditSettings`.
        references: positions in the clip, in (0, 1], of edited frames besides the first.
        tight: use the mask of what really changes instead of the loose one.
        against: the method with which a choice is compared.
    """

    make: Callable[[Case, Mapping[int, Image]], Frames] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    references: tuple[float, ...] = ()
    tight: bool = False
    against: str = OURS

    def run(self, case: Case, settings: dict[str, Any]) -> Frames:
        """Returns the frames that the method makes of a case; ``settings`` apply to every method."""
        last = len(case.source) - 1
        references = {index: case.truth[index] for index in {round(part * last) for part in self.references}}
        if self.make is not None:
            return laid_over(case, self.make(case, {0: case.truth[0], **references}))
        mask = tight_mask(case) if self.tight else case.mask
        result = loraedit.edit(case.source, case.truth[0], mask, references=references, **{**settings, **self.settings})
        return result.clip.frames


def laid_over(case: Case, frames: Frames) -> Frames:
    """Returns the frames inside the mask and the source outside, so that every method benefits from the mask."""
    return np.where(case.mask[..., None], frames, case.source)


def tight_mask(case: Case) -> Mask:
    """Returns the mask of all pixels that differ between source and truth, grown by a pixel."""
    changed: Mask = (case.source != case.truth).any(-1)
    for index in np.flatnonzero(~changed.any((1, 2))):
        changed[index] = case.mask[index]
    return dilate(changed, 1)


def unchanged(case: Case, _: Mapping[int, Image]) -> Frames:
    """Returns the source."""
    return case.source


def held_still(case: Case, edited: Mapping[int, Image]) -> Frames:
    """Returns the edited first frame for all frames."""
    return np.repeat(edited[0][None], len(case.source), 0)


def optical_flow(case: Case, edited: Mapping[int, Image]) -> Frames:
    """Warps the edited first frame along OpenCV's dense flow (DIS), frame by frame, then refined."""
    estimator = open_estimator(Size(*case.source.shape[1:3]), FlowOptions("dis"))
    prepared = [estimator.prepare(frame) for frame in case.source]
    chained, frames = np.zeros((*case.source.shape[1:3], 2), np.float32), [edited[0]]
    for index in range(1, len(prepared)):
        step = estimator.flow(prepared[index], prepared[index - 1])
        chained = step + sample_at(chained, pixel_grid(step) + step)
        refined = estimator.flow(prepared[index], prepared[0], chained)
        frames.append(np.rint(sample_at(edited[0], pixel_grid(refined) + refined)).astype(np.uint8))
    return np.stack(frames)


def carried(case: Case, edited: Mapping[int, Image]) -> Frames:
    """Returns what ``fill="carry"`` shows the model, without the model."""
    return carry_edits(case.source, edited, case.mask).frames


def best_of_carried(case: Case, edited: Mapping[int, Image]) -> Frames:
    """Carries each edited frame alone, and picks the one nearest to the truth per pixel: an upper bound."""
    alone = np.stack([carry_edits(case.source, {index: image}, case.mask).frames for index, image in edited.items()])
    nearest = np.abs(alone.astype(np.int16) - case.truth).sum(-1).argmin(0)
    best: Frames = np.take_along_axis(alone, nearest[None, ..., None], 0)[0]
    return best
