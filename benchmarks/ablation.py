"""What each part of the method is worth, on clips whose true edit is known.

    python -m benchmarks.ablation [--cases N] [--first K] [--work FOLDER] [--set NAME=VALUE ...]

Procedural scenes that pretraining never saw are rendered twice: as they are (the source), and with the first thing
recoloured or re-textured (the truth). Every method gets the source, the truth's first frame and a loose mask, and is
scored against the truth in the thing's region, frames after the first. Results are kept per case, so the run can be
stopped and continued.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import loraedit
from loraedit.evaluate import metrics
from loraedit.files import fingerprint, write_json
from loraedit.masks import box_regions
from loraedit.types import Frames, Mask
from pretrain.clips import edited_twin, render, sample_scene

FROM_NOTHING = {"steps": 120, "lr": 3e-3}  # without a prior a LoRA needs more and larger steps
METHODS: dict[str, dict[str, Any] | None] = {
    "source unchanged": None,
    "no LoRA": {"lora": "none"},
    "naive LoRA": {"lora": "naive", **FROM_NOTHING},
    "motion LoRA, the paper's recipe": {"recipe": "paper", **FROM_NOTHING},
    "motion LoRA": {"lora": "motion"},
}
HELD_OUT_SEED = 2_000_000


@dataclass(frozen=True)
class Case:
    """A source, its true edit, the loose mask, and where the thing is in every frame."""

    source: Frames
    truth: Frames
    mask: Mask
    thing: Mask


def make_case(index: int, frames: int, height: int, width: int) -> Case:
    """Case ``index``: even ones are recoloured, odd ones re-textured. Scenes where the thing leaves are passed over."""
    for attempt in range(1000):
        rng = np.random.default_rng((HELD_OUT_SEED, index, attempt))
        scene = sample_scene(rng, ())
        twin = edited_twin(rng, scene, (), "recolour" if index % 2 == 0 else "retexture")
        source, truth = (render(each, frames, height, width, index) for each in (scene, twin))
        thing = source.visible > 0.5
        share = thing.mean((1, 2))
        mask = box_regions(source.visible > 0.02, 0.1)
        change = np.abs(source.frames.astype(int) - truth.frames).mean(-1)[thing]
        if share.min() > 0.04 and share[0] > 0.08 and mask.mean((1, 2)).max() < 0.7 and change.mean() > 25:
            return Case(source.frames, truth.frames, mask, thing)
    raise AssertionError("no scene fits")


def score(frames: Frames, case: Case) -> dict[str, float]:
    """PSNR (dB) to the truth in the thing's region, and how many of its edited pixels are nearer truth than source."""
    got, truth, source, mask, thing = (x[1:] for x in (frames, case.truth, case.source, case.mask, case.thing))
    return {
        "psnr": metrics.psnr(got, truth, thing),
        "nearer": metrics.nearer_to_truth(got, truth, source, thing),
        "outside": float(metrics.outside_difference(got, source, mask)),
    }


def evaluate(case: Case, method: dict[str, Any] | None, settings: dict[str, Any], seed: int) -> dict[str, float]:
    """Run one method on one case."""
    if method is None:
        return score(case.source, case)
    result = loraedit.edit(case.source, case.truth[0], case.mask, seed=seed, train_seed=seed, **{**settings, **method})
    return score(result.clip.frames, case)


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` to settings; values are JSON where they can be."""
    settings = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def table(rows: dict[str, list[dict[str, float]]]) -> Table:
    """Means over the cases."""
    sheet = Table("method", "PSNR in the region (dB)", "nearer to the truth", "worst difference outside", "cases")
    for name, scores in rows.items():
        psnr, nearer, outside = ([score[key] for score in scores] for key in ("psnr", "nearer", "outside"))
        sheet.add_row(
            name, f"{np.mean(psnr):.2f}", f"{100 * np.mean(nearer):.0f} %", f"{max(outside):.0f}", str(len(scores))
        )
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", default="17x96x96", help="frames x height x width")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--work", type=Path, default=Path(".cache/ablation"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings for every method")
    options = parser.parse_args()
    frames, height, width = (int(n) for n in options.size.split("x"))
    settings = parse_settings(options.set)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in options.methods}
    model_key = fingerprint(*(p.read_bytes() for p in sorted(Path(loraedit.__file__).parent.rglob("nano/**/*.*"))))
    for index in range(options.first, options.first + options.cases):
        case = make_case(index, frames, height, width)
        for name in options.methods:
            key = fingerprint(model_key, name, METHODS[name], settings, options.seed, case.source, case.truth)
            path = options.work / f"{key}.json"
            if not path.exists():
                write_json(path, evaluate(case, METHODS[name], settings, options.seed))
            rows[name].append(json.loads(path.read_text()))
            print(index, name, {k: round(v, 2) for k, v in rows[name][-1].items()}, flush=True)
    Console().print(table(rows))


if __name__ == "__main__":
    main()
