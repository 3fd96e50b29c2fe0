"""Measures what the published models need and writes it into docs/models-and-memory.md, between its marks.

    python -m scripts.models_table [--frames 49 ...] [--models NAME ...] [--page docs/models-and-memory.md]

No weights are needed: each true architecture runs on fake tensors. Every figure is measured once and kept in the user's
cache folder, so a stopped run continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.tables import put_section
from loraedit.cli.progress import quiet_libraries
from loraedit.errors import InputError, ModelError
from loraedit.families.card import ModelCard
from loraedit.families.known import KnownModel, known_models
from loraedit.families.skeleton import open_skeleton
from loraedit.planning import Limits, Plan, describe_resources, make_plan, work_of
from loraedit.planning.gpus import GPUS
from loraedit.settings import make_settings
from loraedit.types import Size
from loraedit.video.scaling import working_size

GB = 10**9
BUDGETS = (12, 16, 24, 32, 48, 80)
COMMON = Size(480, 832)

HEAD = ("model", "size", "frames", "tokens", "training step", "pass", "peak", "fits", "means", "host memory", "time")
EXPLAINED = """
The figures come from running each true architecture on fake tensors, which have shapes but no data, through the code
of a run. No weights were loaded and no GPU was used. `loraedit plan` does the same for your own clip. A training step
is one clip with rank 16 on all linear layers of the blocks and with gradient checkpointing. A pass is one forward pass
in sampling. One multiply-add is two FLOPs. *Peak* is the largest phase with gradient checkpointing and nothing else.
*Fits* is the smallest GPU (12, 16, 24, 32, 48 or 80 GB) that holds every phase with 2 GB to spare, with weights in
bfloat16, and *means* is what that takes. *Host memory* is what the whole process then takes at most. *Time*
is that of the whole edit by the paper's recipe on an RTX 4090, as a multiple of the time with gradient checkpointing
alone.
"""

SMALL_MODEL, SMALL_FRAMES = "wan2.1-i2v-14b-480p", 49
SMALL_HEAD = ("GPU", "size", "means", "peak", "host memory", "time")
AREAS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
SMALL_EXPLAINED = """
Wan2.1 I2V 14B, 49 frames at 832x480, with 2 GB to spare. Where the full size does not fit, the largest `--area` of
0.9, 0.8, ... that does. *Time* is that of the whole edit by the paper's recipe on an RTX 4090, as a multiple of the
time with gradient checkpointing alone, at the same size; copies of swapped blocks are hidden behind the computation.
"""
CLOCK = next(gpu for gpu in GPUS if gpu.name == "RTX 4090")


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[49])
    parser.add_argument("--models", nargs="+", help="short names (default: all)")
    parser.add_argument("--readme", type=Path, help="also write the short table of this page, such as README.md")
    parser.add_argument("--page", type=Path, default=Path("docs/models-and-memory.md"))
    return parser


def main() -> None:
    """Measures all models and writes the page."""
    options = argument_parser().parse_args()
    quiet_libraries("diffusers", "transformers")
    put_section(options.page, "small", _small_gpus())
    cases = [
        (model, size, frames)
        for model in known_models()
        for size in dict.fromkeys([COMMON, Size(model.height, model.width)])
        for frames in options.frames
        if options.models is None or model.short_name in options.models
    ]
    names: dict[tuple[str, ...], list[str]] = {}  # models of one architecture have the same cost
    refused: dict[str, str] = {}
    for model, size, frames in track(cases, "Measuring"):
        try:
            names.setdefault(_figures(model, size, frames), []).append(model.name)
        except (ModelError, InputError) as error:
            refused[model.name] = str(error).replace("\n", " ")
    rows = [(", ".join(alike), *figures) for figures, alike in names.items()]
    notes = [f"- {name} is not measured: {why}" for name, why in refused.items()]
    put_section(options.page, "cost", "\n".join([EXPLAINED, _table(HEAD, rows), *(["", *notes] if notes else [])]))
    if options.readme is not None:
        put_section(options.readme, "needs", _needs())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _figures(model: KnownModel, size: Size, frames: int) -> tuple[str, ...]:
    """Returns a line of the table without the model's name."""
    with open_skeleton(model.id) as card:
        planned = _planner(card, model.id, working_size(size, size.height * size.width, card.multiple_px), frames)
        plain = planned(None, {})
        least = next(((gb, plan) for gb in BUDGETS if (plan := planned(gb, {"weights": "full"})).fits), None)
        fits = ("none of these", "", "", "")
        if least:
            fits = (f"{least[0]} GB", *_saved(least[1], plain))
        return (
            str(plain.work.shape.size), str(frames), f"{plain.tokens:,}", f"{plain.costs['train'].flops:.2e}",
            f"{plain.costs['sample'].flops:.2e}", _gigabytes(_peak(plain)), *fits,
        )  # fmt: skip


def _needs() -> str:
    """Returns a short table: which models fit which GPU at their own size, by the least GPU."""
    fitting: dict[int, list[tuple[str, Plan]]] = {}
    for model in known_models():
        with open_skeleton(model.id) as card:
            planned = _planner(card, model.id, Size(model.height, model.width), SMALL_FRAMES)
            least = next(((gb, plan) for gb in BUDGETS if (plan := planned(gb, {"weights": "full"})).fits), None)
            if least:
                fitting.setdefault(least[0], []).append((model.name, least[1]))
    rows = [
        (
            ", ".join(name for name, _ in found),
            f"{gb} GB",
            _gigabytes(max(plan.host_peak_bytes for _, plan in found)),
        )
        for gb, found in sorted(fitting.items())
    ]
    return _table(("model", "smallest GPU", "host memory, at most"), rows)


def _small_gpus() -> str:
    """Returns the table of what a 14B model takes on GPUs of each size."""
    rows = []
    with open_skeleton(SMALL_MODEL) as card:
        for gb in BUDGETS:
            for area in AREAS:
                size = working_size(COMMON, round(COMMON.height * COMMON.width * area), card.multiple_px)
                planned = _planner(card, SMALL_MODEL, size, SMALL_FRAMES)
                plan = planned(gb, {})
                if plan.fits:
                    means, host, time = _saved(plan, planned(None, {}))
                    label = str(size) if area == 1 else f"{size} (`--area {area}`)"
                    rows.append((f"{gb} GB", label, means, _gigabytes(_peak(plan)), host, time))
                    break
    return f"{SMALL_EXPLAINED}\n{_table(SMALL_HEAD, rows)}"


def _planner(card: ModelCard, model: str, size: Size, frames: int) -> Callable[[int | None, dict[str, Any]], Plan]:
    """Returns a function that plans an edit by the paper's recipe for a number of gigabytes, under given options."""
    settings = make_settings({"model": model, "recipe": "paper"}).resolved(card.recipe)
    work = work_of(card, settings, size, [frames], 0)

    def planned(budget: int | None, options: dict[str, Any]) -> Plan:
        own = make_settings({"model": model, **options})
        return make_plan(card, model, size, work, None if budget is None else Limits(budget * GB), own.resources)

    return planned


def _saved(plan: Plan, plain: Plan) -> tuple[str, str, str]:
    """Returns the means of a plan, its host memory, and its time against that of the plain one."""
    time = plan.seconds(CLOCK) / plain.seconds(CLOCK)
    return describe_resources(plan.resources) or "none", _gigabytes(plan.host_peak_bytes), f"{time:.2f}"


def _peak(plan: Plan) -> int:
    return max(cost.peak_bytes for cost in plan.costs.values())


def _gigabytes(size: int) -> str:
    return f"{size / GB:.1f} GB"


if __name__ == "__main__":
    main()
