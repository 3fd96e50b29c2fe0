"""Measure a finished run, and write its report: RUN/metrics.json and RUN/report.html."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraedit.evaluate import metrics
from loraedit.evaluate.encoder import ImageEncoder, check_image_encoder
from loraedit.evaluate.page import Row, report_page
from loraedit.runs.finished import Finished, read_finished
from loraedit.runs.folder import check_run, damaged
from loraedit.storage.files import write_json, write_text
from loraedit.storage.locks import sole_user

__all__ = ["MEASURES", "Evaluation", "Measure", "evaluate_run"]


@dataclass(frozen=True)
class Measure:
    """How a metric is shown.

    Attributes:
        label: its name for people.
        form: a format for its value, with the unit.
        meaning: how to read it, in a sentence.
    """

    label: str
    form: str
    meaning: str


MEASURES = {
    "outside_difference": Measure(
        "Worst difference outside the mask",
        "{:.0f} grey levels",
        "Between result and source; 0 is the same, bit for bit.",
    ),
    "changed_first": Measure(
        "Changed in the first frame",
        "{:.1%}",
        "The share of the mask that your edit clearly changed (by more than 16 grey levels).",
    ),
    "changed_later": Measure(
        "Changed in the later frames",
        "{:.1%}",
        "The same after the first frame: far less, and the edit was lost on the way; far more, and it spread.",
    ),
    "flow_similarity": Measure(
        "Motion as in the source",
        "{:.3f}",
        "Likeness of the optical flow inside the mask, 0 to 1; 1 is the same dance.",
    ),
    "flicker": Measure(
        "Flicker",
        "{:.2f} grey levels",
        "How far a pixel inside the mask is from the mean of its neighbours in time; lower is steadier.",
    ),
    "source_flicker": Measure(
        "Flicker of the source", "{:.2f} grey levels", "The same of the source, to compare with."
    ),
    "input_similarity": Measure(
        "Similarity to the source",
        "{:.4f}",
        "Mean cosine of image embeddings, frame by frame (the paper's Input Similarity); up to 1.",
    ),
    "first_frame_similarity": Measure(
        "Similarity to the edited first frame",
        "{:.4f}",
        "Mean cosine of image embeddings of your edit and each later frame; up to 1.",
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: by name, as in :data:`MEASURES`; what cannot be measured (motion in one frame, similarities without
            an image encoder) is not there.
        report: the page, ``RUN/report.html``.
        file: the numbers, ``RUN/metrics.json``.
    """

    metrics: dict[str, float]
    report: Path
    file: Path

    def rows(self) -> list[Row]:
        """Label, value and meaning of each metric."""
        return [
            Row(MEASURES[name].label, MEASURES[name].form.format(value), MEASURES[name].meaning)
            for name, value in self.metrics.items()
        ]


def evaluate_run(run: Path, image_encoder: Path | None = None) -> Evaluation:
    """Measure a finished run, and write ``metrics.json`` and ``report.html`` into it.

    Args:
        run: the run folder of an edit.
        image_encoder: a folder with a CLIP or like model, for the similarities; it runs on the best device.

    Raises:
        InputError: it is no run folder, the run is not finished, it is damaged, or another process works in it.
        ModelError: the image encoder cannot be used.
    """
    if image_encoder is not None:
        check_image_encoder(image_encoder)
    check_run(run)
    with sole_user(run):
        return _evaluate(run, image_encoder)


def _evaluate(run: Path, image_encoder: Path | None) -> Evaluation:
    finished = read_finished(run)
    pictures = _pictures(run, bool(finished.losses))
    measured = {**dict(_without_encoder(finished)), **_with_encoder(finished, image_encoder)}
    evaluation = Evaluation(measured, run / "report.html", run / "metrics.json")
    record = {
        "frames": finished.result.fingerprint,
        "image_encoder": None if image_encoder is None else image_encoder.resolve().name,
        "metrics": measured,
    }
    write_json(evaluation.file, record)
    prompt = finished.provenance.get("settings", {}).get("prompt", "")
    write_text(evaluation.report, report_page(prompt, pictures, evaluation.rows(), _settings_rows(finished)))
    return evaluation


def _without_encoder(finished: Finished) -> Iterator[tuple[str, float]]:
    """What frames, source and mask alone tell."""
    result, source, mask = finished.result, finished.source, finished.edit_mask
    masked = [mask.box(index) is not None for index in range(len(mask))]
    later = (mask[index] for index in range(1, len(mask)))
    yield "outside_difference", metrics.outside_difference(result.rgb(), source.rgb(), mask)
    if masked[0]:
        yield "changed_first", metrics.changed_share(result.rgb(0, 1), source.rgb(0, 1), [mask[0]])
    if any(masked[1:]):
        yield "changed_later", metrics.changed_share(result.rgb(1), source.rgb(1), later)
    if any(masked[:-1]):
        yield "flow_similarity", metrics.flow_similarity(result.rgb(), source.rgb(), mask)
    if any(masked[1:-1]):
        yield "flicker", metrics.flicker(result.rgb(), source.rgb(), mask)
        yield "source_flicker", metrics.flicker(source.rgb(), source.rgb(), mask)


def _with_encoder(finished: Finished, folder: Path | None) -> dict[str, float]:
    """The similarities, if there is an image encoder."""
    if folder is None:
        return {}
    from loraedit.runtime.devices import find_device

    embed, result = ImageEncoder(folder, find_device(None)), finished.result
    return {
        "input_similarity": metrics.input_similarity(embed, result.rgb(), finished.source.rgb()),
        "first_frame_similarity": metrics.first_frame_similarity(embed, result.rgb(), finished.edited_first),
    }


def _pictures(run: Path, trained: bool) -> dict[str, bytes]:
    """The run's pictures by file name.

    Raises:
        InputError: one is missing.
    """
    names = ["side_by_side.mp4", "sheet.png", *(["loss.png"] if trained else [])]
    found = {name: (run / name).read_bytes() for name in names if (run / name).is_file()}
    for name in names:
        if not found.get(name):
            raise damaged(run, f"{name} is missing")
    return found


def _settings_rows(finished: Finished) -> list[Row]:
    """Everything in ``settings.json``, and the clip's size."""
    clip = finished.source
    about = {"frames": len(clip), "size": str(clip.size), "frames per second": str(clip.fps)}
    return [Row(name, _text(value)) for name, value in {**about, **_flat(finished.provenance)}.items()]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested JSON objects as one, names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _text(value: Any) -> str:
    plain = {None: "default", True: "yes", False: "no", "": "none"}
    return plain[value] if value is None or isinstance(value, bool) or value == "" else str(value)
