"""Writes the benchmark's page: tables, plots and pictures, all made from the results."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image as PilImage

from benchmarks.propagation.cases import KINDS, PER_KIND, make_case
from benchmarks.propagation.methods import OURS
from benchmarks.propagation.rows import CARRIED, CHOICES, METHODS, ONE, PAPER
from benchmarks.propagation.task import Task, strip
from benchmarks.tables import sections
from benchmarks.truth_metrics import Interval, paired_bootstrap
from loraedit.families.card import NANO, read_card
from loraedit.version import __version__
from loraedit.video import read_image

__all__ = ["write_page"]

Scores = dict[str, dict[tuple[str, int], dict[str, float]]]
"""Scores by method and case."""


def read_scores(path: Path) -> dict[str, float]:
    """Reads the scores of one method on one case."""
    content: dict[str, float] = json.loads(path.read_text())
    return content


def gather(tasks: Sequence[Task]) -> Scores:
    """Collects all existing results."""
    scores: Scores = defaultdict(dict)
    for task in tasks:
        if task.result_file().exists():
            scores[task.name][task.kind, task.number] = read_scores(task.result_file())
    return scores


def gain(scores: Scores, name: str, base: str, kinds: Sequence[str] = KINDS, measure: str = "psnr") -> Interval | None:
    """Returns mean and 95 % interval of a method's score minus that of another, on the cases that both have."""
    both = [case for case in scores[name] if case in scores[base] and case[0] in kinds]
    if not both:
        return None
    return paired_bootstrap([scores[name][case][measure] - scores[base][case][measure] for case in both])


def mean(scores: Scores, name: str, measure: str, kinds: Sequence[str] = KINDS) -> float:
    """Returns the mean over the cases of these kinds; nan if there are none."""
    values = [row[measure] for case, row in scores[name].items() if case[0] in kinds]
    return float(np.mean(values)) if values else float("nan")


def span(interval: Interval | None, digits: int = 2) -> str:
    """Formats an interval as ``+1.20 (+0.80 to +1.50)``."""
    if interval is None:
        return "-"
    return " ".join([f"{interval.mean:+.{digits}f}", f"({interval.low:+.{digits}f} to {interval.high:+.{digits}f})"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown; all but the first column are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


# ---- the parts of the page ---------------------------------------------------------------------------------------


def main_table(scores: Scores) -> str:
    """Returns the table of every method with every measure."""
    rows = []
    for name in (each for each in METHODS if scores[each]):
        values = {measure: mean(scores, name, measure) for measure in next(iter(scores[name].values()))}
        rows.append([
            f"**{name}**" if name == OURS else name, f"{values['psnr']:.2f}",
            "" if name == OURS else span(gain(scores, OURS, name)), f"{100 * values['nearer']:.0f} %",
            f"{values['ssim']:.3f}", f"{values['psnr_border']:.2f}", f"{values['flow']:.2f}",
            f"{values['flicker']:.2f}", f"{values['outside']:.0f}", f"{values['seconds']:.0f}",
        ])  # fmt: skip
    head = [
        "method", "PSNR, dB", f"gain of {OURS}, dB", "nearer to truth", "SSIM", "PSNR at the border, dB",
        "motion similarity", "flicker", "outside", "s",
    ]  # fmt: skip
    return table(head, rows)


def kind_table(scores: Scores) -> str:
    """Returns the table of PSNR by kind of case."""
    names = [name for name in METHODS if scores[name]]
    rows = [[name, *(f"{mean(scores, name, 'psnr', [kind]):.1f}" for kind in KINDS)] for name in names]
    return table(["PSNR, dB", *KINDS], rows)


def model_table(scores: Scores) -> str:
    """Returns the table of what the model adds to carried keyframes, by kind and on all cases."""
    rows = []
    for name in (each for each in CARRIED if scores[each] and scores[CARRIED[each]]):
        by_kind = [mean(scores, name, "psnr", [kind]) - mean(scores, CARRIED[name], "psnr", [kind]) for kind in KINDS]
        rows.append([name, span(gain(scores, name, CARRIED[name])), *(f"{value:+.1f}" for value in by_kind)])
    return table(["gain over the carried keyframes, dB", "all", *KINDS], rows)


def claims_table(scores: Scores) -> str:
    """Returns the table of the paper's claims, each with the difference that tests it."""
    claims = [
        ("the LoRA teaches the base model to read masks", gain(scores, PAPER, "no LoRA"), "dB"),
        ("a LoRA without a mask is worse", gain(scores, PAPER, "naive LoRA"), "dB"),
        ("loose masks beat tight ones", gain(scores, PAPER, "tight mask, the paper's recipe"), "dB"),
        ("references stop drift", gain(scores, ONE, OURS), "dB"),
        ("references show a side that frame 1 hides", gain(scores, ONE, OURS, ["unseen"]), "dB"),
        (
            "the LoRA keeps the motion of the source",
            gain(scores, PAPER, "no LoRA", measure="flow"),
            "",
        ),
    ]
    rows = []
    for text, interval, unit in claims:
        if interval is None:
            continue
        one = interval.low == interval.high
        verdict = "one case" if one else "holds" if interval.low > 0 else "refuted" if interval.high < 0 else "open"
        rows.append([text, f"{span(interval)} {unit}".strip(), verdict])
    return table(["claim", "difference", "result"], rows)


def choices_table(chosen: Scores, compared: Scores) -> str:
    """Returns the table of the effect of each choice, on the cases that were run for it."""
    everything: Scores = defaultdict(dict, {**compared, **chosen})
    rows = []
    for name, method in CHOICES.items():
        if chosen[name]:
            rows.append(
                [
                    name,
                    method.against,
                    span(gain(everything, name, method.against)),
                    f"{mean(chosen, name, 'seconds'):.0f}",
                ]
            )
    return table(["choice", "against", "difference in PSNR, dB", "s"], rows)


def choices_part(chosen: Scores, compared: Scores) -> str:
    """Returns the section on the choices, if any was run."""
    count = max((len(rows) for rows in chosen.values()), default=0)
    return f"## Choices, one at a time\n\n{choices_table(chosen, compared)}\nOn {count} cases.\n\n" if count else ""


def bar_plot(path: Path, scores: Scores) -> None:
    """Plots the mean PSNR of every method with its 95 % interval, and the main methods by kind."""
    names = [name for name in METHODS if scores[name]]
    levels = [paired_bootstrap([row["psnr"] for row in scores[name].values()]) for name in names]
    colours = ["#d9622b" if name.startswith(OURS) else "#8a93a0" for name in names]
    mpl.rcParams["font.size"] = 9
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(1, 1.2))
    means = np.array([level.mean for level in levels])
    spread = np.array([[level.mean - level.low for level in levels], [level.high - level.mean for level in levels]])
    left.barh(names[::-1], means[::-1], xerr=spread[:, ::-1], color=colours[::-1], error_kw={"lw": 1})
    left.set_xlabel("PSNR in the edited region, frames after the first, dB")
    shown = [name for name in ("optical flow (DIS)", "naive LoRA", PAPER, OURS, ONE) if scores[name]]
    width = 0.8 / len(shown)
    for index, name in enumerate(shown):
        values = [mean(scores, name, "psnr", [kind]) for kind in KINDS]
        right.bar(np.arange(len(KINDS)) + width * (index - len(shown) / 2 + 0.5), values, width, label=name)
    right.set_xticks(range(len(KINDS)), KINDS, rotation=30)
    right.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def picture(path: Path, tasks: Sequence[Task], kind: str) -> None:
    """Draws the first case of a kind: source, truth, and every method that has a result, at five times."""
    case = make_case(kind, 0)
    strips = {"source": strip(case.source), "truth": strip(case.truth)}
    for task in tasks:
        file = task.result_file().with_suffix(".png")
        if (task.kind, task.number) == (kind, 0) and task.name != "source unchanged" and file.exists():
            strips[task.name] = read_image(file)
    height, width = strips["source"].shape[:2]
    label = 230
    page = np.full((len(strips) * (height + 4), width + label, 3), 255, np.uint8)
    for row, (name, pixels) in enumerate(strips.items()):
        top = row * (height + 4)
        page[top : top + height, label:] = pixels
        cv2.putText(page, name, (4, top + height // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (40, 40, 40), 1, cv2.LINE_AA)
    PilImage.fromarray(page).save(path, quality=85)


def made_by() -> str:
    """Names the commit whose code wrote the page; outside of a git checkout, the version of the package."""
    show = ["git", "log", "-1", "--format=%cs (commit %h)"]
    try:
        commit = subprocess.run(
            show, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"Measured with loraedit {__version__}."
    return f"Measured with the code of {commit}."


def write_page(page: Path, compared: Sequence[Task], chosen: Sequence[Task]) -> None:
    """Writes the page and, beside it in a folder of its name, its pictures."""
    scores, choices = gather(compared), gather(chosen)
    pictures = page.with_suffix("")
    bar_plot(pictures / "methods.png", scores)
    for kind in KINDS:
        picture(pictures / f"{kind}.jpg", compared, kind)
    counts = {len(rows) for rows in scores.values()}
    recipe = read_card(NANO).recipe.model_dump()
    sheets = "\n".join(f"### {kind}\n\n![{kind}]({pictures.name}/{kind}.jpg)\n" for kind in KINDS)
    kept = sections(page.read_text(encoding="utf-8")) if page.exists() else ""
    page.write_text(f"""# Benchmark: how well an edit is carried through a clip

`make bench` writes this page; do not edit it by hand. It covers {max(counts)} of {len(KINDS) * PER_KIND} cases of
{len(KINDS)} kinds, with 17 frames of 128x128 pixels. Each scene is rendered twice: unedited (the source) and edited
(the truth). Every method gets the source, the first frame of the truth and a loose mask. Results are compared with the
truth where the edited object is visible, in the frames after the first. The model is nano with the recipe
`{recipe}`. Intervals are 95 %, by a paired bootstrap over the cases. Seconds are those of one thread, while as many
cases run in parallel as there are processors. {made_by()}

![Methods]({pictures.name}/methods.png)

## Methods

{main_table(scores)}
*Nearer to truth* is the share of clearly edited pixels that are nearer to the truth than to the source. *Motion
similarity* compares the optical flow inside the mask with that of the source; 1 is equal. *Flicker* is the unsteadiness
in grey levels. *Outside* is the largest difference to the source outside the mask, in grey levels.

## By kind

{kind_table(scores)}
## What the model adds to the carried keyframes

{model_table(scores)}
## The paper's claims

{claims_table(defaultdict(dict, {**choices, **scores}))}
A claim *holds* or is *refuted* if its whole interval lies on one side of zero; otherwise it is *open*.

{choices_part(choices, scores)}## Pictures

The first case of each kind, frames 0, 4, 8, 12 and 16.

{sheets}
{kept}
""")
