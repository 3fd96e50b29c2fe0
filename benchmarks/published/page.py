"""The table: published figures, ours beside them, and what keeps them from being compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks.published.encoders import Encoder
from benchmarks.published.figures import LABELS, UNAVAILABLE, PublishedSet, differences
from benchmarks.published.measures import MEASURED_BY, NEED_TEXT

__all__ = ["Results", "section"]


@dataclass(frozen=True)
class Results:
    """Holds the measurements of a run.

    Attributes:
        form: the form of the folder.
        label: the name of our row.
        settings: what the edits were made with.
        figures: by case and measure; a case that failed has none.
        failed: why a case has none, by case.
        encoders: what measured them.
        index: the batch's page with pictures.
        remarks: sentences about the folder and its cases.
    """

    form: str
    label: str
    settings: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, float]]
    failed: Mapping[str, str]
    encoders: Sequence[Encoder]
    index: str
    remarks: Sequence[str] = ()

    def counts(self) -> dict[str, int]:
        """Returns on how many clips each measure was taken."""
        return {name: len(values) for name, values in self._values().items()}

    def means(self) -> dict[str, float]:
        """Returns the mean of each measure over the clips that have it."""
        return {name: fmean(values) for name, values in self._values().items()}

    def _values(self) -> dict[str, list[float]]:
        every = {name: [each[name] for each in self.figures.values() if name in each] for name in LABELS}
        return {name: values for name, values in every.items() if values}


def section(results: Results, published: Sequence[PublishedSet]) -> str:
    """Returns the Markdown of a form: table, notes, and the figures of each clip.

    Args:
        published: the sets of the form; a figure of ours gets a star where it is comparable with none of those that
            have it.
    """
    reasons = [(each, differences(each, results.counts(), results.encoders)) for each in published]
    parts = [
        f"## {results.label} on a folder in the form of `{results.form}`",
        _table(results, published, _starred(reasons)),
        "\n".join(f"- {note}" for note in _notes(results, reasons)),
        "### Clip by clip",
        _clips(results),
    ]
    return "\n\n".join(parts)


def _starred(reasons: Sequence[tuple[PublishedSet, Mapping[str, tuple[str, ...]]]]) -> set[str]:
    """Returns the measures that some set has and none has comparably."""
    having = {name for _, found in reasons for name in found}
    return {name for name in having if all(found[name] for _, found in reasons if name in found)}


def _table(results: Results, published: Sequence[PublishedSet], starred: set[str]) -> str:
    shown = {name for each in published for row in each.rows for name in row.figures()} | set(results.means())
    columns = [name for name in LABELS if name in shown]
    lines = [["method", "clips", *(LABELS[name] for name in columns)], ["---", "---", *["---:"] * len(columns)]]
    for each in published:
        clips = f"{each.title}, {each.clips or '?'}"
        for row in each.rows:
            figures = row.figures()
            lines.append([row.name, clips, *(f"{figures[n]:.5g}" if n in figures else "" for n in columns)])
    lines.append([f"**{results.label}**", f"this folder, {len(results.figures)}", *_ours(results, columns, starred)])
    return _lines(lines)


def _ours(results: Results, columns: Sequence[str], starred: set[str]) -> Iterator[str]:
    means, counts, whole = results.means(), results.counts(), len(results.figures)
    for name in columns:
        if name not in means:
            yield "-"
            continue
        few = "" if counts[name] == whole else f" ({counts[name]})"
        yield _figure(name, means[name]) + ("\\*" if name in starred else "") + few


def _notes(results: Results, reasons: Sequence[tuple[PublishedSet, Mapping[str, tuple[str, ...]]]]) -> Iterator[str]:
    """Yields everything that a reader of the table must know."""
    if not reasons:
        yield "No figures have been published for these clips."
    if _starred(reasons):
        yield "\\* Not comparable with the published figures:"
    for published, found in reasons:
        for name, why in found.items():
            if why:
                yield f"{LABELS[name]}, {published.title}: {'; '.join(why)}."
    for published, _ in reasons:
        yield f"{published.title}: {published.source}. {published.note}"
    kinds = {encoder.kind for encoder in results.encoders}
    having = {name for published, _ in reasons for row in published.rows for name in row.figures()}
    for name in LABELS:
        if name in having - set(results.means()) and MEASURED_BY.get(name) not in kinds:
            yield f"{LABELS[name]} was not measured: {UNAVAILABLE.get(name, 'no encoder for it was given.')}"
    yield from _without_text(results)
    for encoder in results.encoders:
        yield f"Encoder {encoder.kind}: {encoder.name}, {encoder.shape}, content {encoder.content}."
    yield f"Settings: {', '.join(f'{name}={value}' for name, value in results.settings.items())}."
    yield f"Pictures of every clip: {results.index}"
    yield from results.remarks
    yield from (f"{name} failed: {why}" for name, why in results.failed.items())


def _without_text(results: Results) -> Iterator[str]:
    """Yields the measures that an encoder was given for, but no clip has a prompt for."""
    for name in NEED_TEXT:
        if MEASURED_BY[name] in {encoder.kind for encoder in results.encoders} and name not in results.means():
            yield f"{LABELS[name]} was not measured: it needs prompts, which --extras can give."


def _clips(results: Results) -> str:
    columns = [name for name in LABELS if name in results.means()]
    lines = [["clip", *(LABELS[name] for name in columns)], ["---", *["---:"] * len(columns)]]
    for case, figures in results.figures.items():
        lines.append([case, *(_figure(name, figures[name]) if name in figures else "" for name in columns)])
    return _lines(lines)


def _figure(name: str, value: float) -> str:
    return f"{value:.3f}" if name in ("frame_text", "video_text", "pick", "vlm") else f"{value:.4f}"


def _lines(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
