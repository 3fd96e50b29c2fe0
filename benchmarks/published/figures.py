"""The published figures, and which of them a figure of ours may stand beside."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from benchmarks.published.encoders import Encoder, Kind
from benchmarks.published.measures import MEASURED_BY

__all__ = ["LABELS", "UNAVAILABLE", "PublishedRow", "PublishedSet", "differences", "published_sets"]

LABELS = {
    "first_frame_similarity": "CLIP to edited first frame",
    "deqa": "DeQA",
    "input_similarity": "input similarity",
    "clip_consistency": "CLIP consistency",
    "dino_consistency": "DINO consistency",
    "frame_text": "frame text",
    "video_text": "video text",
    "pick": "PickScore",
    "vlm": "VLM",
}
"""All measures, in the order of the table's columns."""

UNAVAILABLE = {
    "deqa": "its model needs code from its checkpoint, which loraedit does not run, and neither transformers nor pyiqa "
    "0.1.16 has a class for it. Score the frames with its authors' program and give the scores with --deqa.",
    "video_text": "ViCLIP, which measures it, has no class in transformers.",
    "vlm": "a paid service gives the score.",
}
"""Measures that this program cannot take, and why."""


class PublishedRow(BaseModel):
    """The figures of one method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    first_frame_similarity: float | None = None
    deqa: float | None = None
    input_similarity: float | None = None
    clip_consistency: float | None = None
    dino_consistency: float | None = None
    frame_text: float | None = None
    video_text: float | None = None
    pick: float | None = None
    vlm: float | None = None

    def figures(self) -> dict[str, float]:
        """Returns the figures that were published."""
        return self.model_dump(exclude={"name"}, exclude_none=True)


class PublishedSet(BaseModel):
    """Figures on the same clips by the same measures.

    Attributes:
        title: the set.
        clips: how many; None if the source does not say.
        source: where the figures were published.
        note: what a reader must know who compares with them.
        encoders: shapes of the encoders that the source names.
        rows: the methods.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    clips: int | None = None
    source: str
    note: str
    encoders: dict[Kind, str] = {}
    rows: tuple[PublishedRow, ...]


def published_sets(form: str) -> tuple[PublishedSet, ...]:
    """Returns what was published on a form's clips; nothing for AnyV2V's demo."""
    content = tomllib.loads(Path(__file__).with_name("figures.toml").read_text(encoding="utf-8"))
    return tuple(PublishedSet.model_validate(each) for each in content.get(form, ()))


def differences(
    published: PublishedSet, measured: Mapping[str, int], found: Sequence[Encoder]
) -> dict[str, tuple[str, ...]]:
    """Returns, for each measure that both have, why the figures are not comparable; nothing if they may be.

    Args:
        measured: on how many clips each figure of ours was measured.
        found: our encoders.
    """
    common = {name for row in published.rows for name in row.figures()} & set(measured)
    shapes = {encoder.kind: encoder.shape for encoder in found}
    return {
        name: (*_other_clips(published, measured[name]), *_other_encoder(published, name, shapes))
        for name in LABELS
        if name in common
    }


def _other_clips(published: PublishedSet, count: int) -> list[str]:
    if published.clips is None:
        return [f"measured on {count} clips, where the published number is not known"]
    return [] if count == published.clips else [f"measured on {count} of {published.clips} clips"]


def _other_encoder(published: PublishedSet, name: str, shapes: Mapping[Kind, str]) -> list[str]:
    kind = MEASURED_BY.get(name)
    if kind is None:
        return []
    theirs = published.encoders.get(kind)
    if theirs is None:
        return [f"measured with {shapes[kind]}, where the published encoder is not named"]
    return [] if shapes[kind] == theirs else [f"measured with {shapes[kind]} in place of {theirs}"]
