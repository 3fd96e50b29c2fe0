"""Measures what the published models need and writes it into docs/models-and-memory.md, between its marks.

    python -m scripts.models_table [--frames 49 81] [--models NAME ...] [--page docs/models-and-memory.md]

No weights are needed: each true architecture runs on fake tensors. Every figure is measured once and kept in the user's
cache folder, so a stopped run continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import track

from benchmarks.tables import put_section
from loraedit.cli.progress import quiet_libraries
from loraedit.errors import InputError, ModelError
from loraedit.families.known import KnownModel, known_models
from loraedit.families.skeleton import open_skeleton
from loraedit.planning import Limits, Plan, describe_resources, make_plan, work_of
from loraedit.settings import make_settings
from loraedit.types import Size
from loraedit.video.scaling import working_size

GB = 10**9
BUDGETS = (12, 16, 24, 32, 48, 80)
COMMON = Size(480, 832)

HEAD = ("model", "size", "frames", "tokens", "training step", "pass", "peak", "fits", "means")
EXPLAINED = """
The figures come from running each true architecture on fake tensors, which have shapes but no data. No weights were
loaded and no GPU was used. `loraedit plan` does the same for your own clip. A training step is one clip with rank 16 on
all linear layers of the blocks and with gradient checkpointing. A pass is one forward pass in sampling. One
multiply-add is two FLOPs. *Peak* is the largest phase with gradient checkpointing and nothing else. *Fits* is the
smallest GPU (12, 16, 24, 32, 48 or 80 GB) that holds every phase with 2 GB to spare, and *means* is what that takes.
`--offload-blocks` is left out, because it does not yet free memory in the backward pass.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[49, 81])
    parser.add_argument("--models", nargs="+", help="short names (default: all)")
    parser.add_argument("--page", type=Path, default=Path("docs/models-and-memory.md"))
    return parser


def main() -> None:
    """Measures all models and writes the page."""
    options = argument_parser().parse_args()
    quiet_libraries("diffusers", "transformers")
    cases = [
        (model, size, frames)
        for model in known_models()
        for size in dict.fromkeys([COMMON, Size(model.height, model.width)])
        for frames in options.frames
        if options.models is None or model.id.split("/")[1].lower().removesuffix("-diffusers") in options.models
    ]
    names: dict[tuple[str, ...], list[str]] = {}  # models of one architecture have the same cost
    refused: dict[str, str] = {}
    for model, size, frames in track(cases, "Measuring"):
        try:
            names.setdefault(_figures(model, size, frames), []).append(model.name)
        except (ModelError, InputError) as error:
            refused[model.name] = str(error).replace("\n", " ")
    rows = [HEAD, ["---"] * len(HEAD), *((", ".join(alike), *figures) for figures, alike in names.items())]
    notes = [f"- {name} is not measured: {why}" for name, why in refused.items()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    put_section(options.page, "cost", "\n".join([EXPLAINED, table, *(["", *notes] if notes else [])]))


def _figures(model: KnownModel, size: Size, frames: int) -> tuple[str, ...]:
    """Returns a line of the table without the model's name."""
    with open_skeleton(model.id) as card:
        settings = make_settings({"model": model.id}).resolved(card.recipe)
        working = working_size(size, size.height * size.width, card.multiple_px)
        work = work_of(card, settings, working, [frames], 0)

        def planned(budget: int | None) -> Plan:
            return make_plan(card, model.id, size, work, None if budget is None else Limits(budget), settings.resources)

        plain = planned(None)
        peak = max(cost.peak_bytes for cost in plain.costs.values())
        least = next(((gb, plan) for gb in BUDGETS if (plan := planned(gb * GB)).fits), None)
        fits, means = (
            (f"{least[0]} GB", describe_resources(least[1].resources) or "none") if least else ("none of these", "")
        )
        return (
            str(work.shape.size), str(work.shape.frames), f"{plain.tokens:,}", f"{plain.costs['train'].flops:.2e}",
            f"{plain.costs['sample'].flops:.2e}", f"{peak / GB:.1f} GB", fits, means,
        )  # fmt: skip


if __name__ == "__main__":
    main()
