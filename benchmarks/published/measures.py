"""Measures a finished edit with the encoders that are given; each figure is kept by the content that it depends on.

first_frame_similarity, input_similarity
    The paper's: :mod:`loraedit.evaluate.metrics` with CLIP's projected image embedding.
clip_consistency, dino_consistency
    EditVerseBench's: mean cosine of each frame and the next, negative ones as 0, of the pooled output of CLIP's image
    tower (unprojected) and of DINOv2.
frame_text
    EditVerseBench's: mean over the frames of CLIP's own logit of frame and prompt, 100 times the cosine for the
    published weights.
pick
    EditVerseBench's: the same with PickScore, for frames of at most 672 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.keeping import code_of, kept
from benchmarks.published import encoders
from benchmarks.published.encoders import Clip, Encoder, Kind
from loraedit.evaluate import metrics
from loraedit.evaluate.encoder import ImageEncoder
from loraedit.runs.finished import read_finished
from loraedit.runtime.devices import find_device
from loraedit.storage.files import fingerprint, read_json

__all__ = ["MEASURED_BY", "NEED_TEXT", "Measurer"]

MEASURED_BY: dict[str, Kind] = {
    "first_frame_similarity": "clip",
    "input_similarity": "clip",
    "clip_consistency": "clip",
    "dino_consistency": "dino",
    "frame_text": "clip",
    "pick": "pick",
}
"""The encoder of each measure."""
NEED_TEXT = ("frame_text", "pick")
PICK_SIDE = 672


class Measurer:
    """Measures edits; an encoder loads when the first figure that needs it is missing."""

    def __init__(self, found: Sequence[Encoder], folder: Path) -> None:
        """Measures with these encoders and keeps the figures in a folder."""
        self._encoders, self._folder = found, folder
        self._loaded: dict[Kind, Any] = {}

    def __call__(self, run: Path, inputs: str, prompt: str | None) -> dict[str, float]:
        """Returns the figures of a finished run by measure; those that need text are missing without a prompt.

        Args:
            run: the run folder.
            inputs: identifies the inputs and settings of the edit.
            prompt: what the edited clip shows.

        Raises:
            InputError: the run is damaged.
            ModelError: an encoder cannot be loaded.
        """
        frames = read_json(run / "metrics.json")["frames"]
        code = [code_of(__file__), code_of(encoders.__file__), code_of(metrics.__file__)]
        figures: dict[str, float] = {}
        for encoder in self._encoders:
            key = fingerprint(code, encoder.kind, encoder.content, inputs, frames, prompt)
            path = self._folder / f"{encoder.kind}-{key}.json"
            figures |= kept(path, partial(self._measure, encoder, run, prompt))
        return figures

    def _measure(self, encoder: Encoder, run: Path, prompt: str | None) -> dict[str, float]:
        if encoder.kind not in self._loaded:
            self._loaded[encoder.kind] = _load(encoder)
        finished, model = read_finished(run), self._loaded[encoder.kind]
        if encoder.kind == "dino":
            vectors = np.concatenate([model(frame[None]) for frame in finished.result.rgb()])
            return _named(dino_consistency=_consistency(vectors))
        if encoder.kind == "pick":
            return _scored("pick", model(finished.result.rgb(), prompt or "", PICK_SIDE).scores, prompt)
        seen, result = model(finished.result.rgb(), prompt or ""), finished.result
        return {
            "first_frame_similarity": metrics.first_frame_similarity(model.embed, result.rgb(), finished.edited_first),
            "input_similarity": metrics.input_similarity(model.embed, result.rgb(), finished.source.rgb()),
            **_named(clip_consistency=_consistency(seen.pooled)),
            **_scored("frame_text", seen.scores, prompt),
        }


def _load(encoder: Encoder) -> Any:
    return ImageEncoder(encoder.folder, find_device(None)) if encoder.kind == "dino" else Clip(encoder.folder)


def _consistency(vectors: NDArray[np.float32]) -> float | None:
    """Returns the mean cosine of neighbours in ``[F, D]``, negative ones as 0; None for a single frame."""
    if len(vectors) < 2:
        return None
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    return float(np.maximum((exact[1:] * exact[:-1]).sum(1), 0).mean())


def _scored(name: str, scores: NDArray[np.float32], prompt: str | None) -> dict[str, float]:
    return {name: float(scores.mean(dtype=np.float64))} if prompt else {}


def _named(**figures: float | None) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}
