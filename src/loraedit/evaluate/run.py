"""Measures a finished run and writes RUN/metrics.json and RUN/report.html."""

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
    """The presentation of a metric.

    Attributes:
        label: the name that users see.
        form: the format of the value, with its unit.
        meaning: one sentence on how to read it.
    """

    label: str
    form: str
    meaning: str


MEASURES = {
    "outside_difference": Measure(
        "Worst difference outside the mask",
        "{:.0f} grey levels",
        "Between result and source; 0 means equal, bit for bit.",
    ),
    "changed_first": Measure(
        "Changed in the first frame",
        "{:.1%}",
        "The share of the mask that your edit clearly changed (by more than 16 grey levels).",
    ),
    "changed_later": Measure(
        "Changed in the later frames",
        "{:.1%}",
        "The same after the first frame. Far less means that the edit was lost, far more that it spread.",
    ),
    "flow_similarity": Measure(
        "Motion as in the source",
        "{:.3f}",
        "Similarity of the optical flow inside the mask, 0 to 1; 1 is equal motion.",
    ),
    "flicker": Measure(
        "Flicker",
        "{:.2f} grey levels",
        "Difference of a pixel inside the mask from the mean of its neighbours in time; lower is steadier.",
    ),
    "source_flicker": Measure(
        "Flicker of the source", "{:.2f} grey levels", "The flicker of the source, for comparison."
    ),
    "input_similarity": Measure(
        "Similarity to the source",
        "{:.4f}",
        "Mean cosine of image embeddings, frame by frame (the paper's Input Similarity); up to 1.",
    ),
    "first_frame_similarity": Measure(
        "Similarity to the edited first frame",
        "{:.4f}",
        "Mean cosine of image embeddings of your first frame and each later frame; up to 1.",
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a run.

    Attributes:
        metrics: values by the names of :data:`MEASURES`. Those that cannot be measured are missing, such as motion in
            one frame, or similarities without an image encoder.
        report: the report page, ``RUN/report.html``.
        file: the values, ``RUN/metrics.json``.
    """

    metrics: dict[str, float]
    report: Path
    file: Path

    def rows(self) -> list[Row]:
        """Returns label, value and meaning of each metric."""
        return [
            Row(MEASURES[name].label, MEASURES[name].form.format(value), MEASURES[name].meaning)
            for name, value in self.metrics.items()
        ]


def evaluate_run(run: Path, image_encoder: Path | None = None) -> Evaluation:
    """Measures a finished run and writes ``metrics.json`` and ``report.html`` into its folder.

    Args:
        run: the run folder of an edit.
        image_encoder: folder of CLIP or a similar model, for the similarities. It runs on the best device.

    Raises:
        InputError: the folder is not a run folder, not finished, damaged, or in use by another process.
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
    """Yields the metrics that need frames, source and mask alone."""
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
    """Returns the similarities, or nothing without an image encoder."""
    if folder is None:
        return {}
    from loraedit.runtime.devices import find_device

    embed, result = ImageEncoder(folder, find_device(None)), finished.result
    return {
        "input_similarity": metrics.input_similarity(embed, result.rgb(), finished.source.rgb()),
        "first_frame_similarity": metrics.first_frame_similarity(embed, result.rgb(), finished.edited_first),
    }


def _pictures(run: Path, trained: bool) -> dict[str, bytes]:
    """Reads the run's pictures by file name.

    Raises:
        InputError: a picture is missing.
    """
    names = ["side_by_side.mp4", "sheet.png", *(["loss.png"] if trained else [])]
    found = {name: (run / name).read_bytes() for name in names if (run / name).is_file()}
    for name in names:
        if not found.get(name):
            raise damaged(run, f"{name} is missing")
    return found


def _settings_rows(finished: Finished) -> list[Row]:
    """Returns rows for the clip and everything in ``settings.json``."""
    clip = finished.source
    about = {"frames": len(clip), "size": str(clip.size), "frames per second": str(clip.fps)}
    return [Row(name, _text(value)) for name, value in {**about, **_flat(finished.provenance)}.items()]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested JSON objects, with names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _text(value: Any) -> str:
    plain = {None: "default", True: "yes", False: "no", "": "none"}
    return plain[value] if value is None or isinstance(value, bool) or value == "" else str(value)
