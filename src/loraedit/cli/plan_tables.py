"""Prints plans as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from loraedit.cli.output import print_line
from loraedit.phases import PLAN_LABELS
from loraedit.settings import Resources

__all__ = ["amount", "estimate", "show_plan"]

UNITS = ((1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"))
HOURS_AT_MOST = 48


def show_plan(console: Console, found: dict[str, Any]) -> None:
    """Prints a plan, and the comparison of recipes if it has one.

    Args:
        found: the plan as JSON values.
    """
    from loraedit.planning import LIGHTER

    segments = f"{found['segments']} segments of " if found["segments"] > 1 else ""
    print_line(
        console,
        f"{found['model']}, recipe {found['recipe']}: {segments}{found['frames']} frames at {found['window']} "
        f"({found['tokens']} tokens), {_steps(found)} training steps, {found['sampling_forwards']} sampling passes",
    )
    console.print(_phase_table(found))
    disk = amount(found["disk_bytes"] / 1e9)
    print_line(console, f"Memory saving: {_measures(found)}. Disk space: at most {disk} GB.")
    if found["resources"]["weights"] not in ("auto", "full"):
        print_line(console, LIGHTER)
    print_line(console, _host_line(found))
    if found["on_this_host"] is not None:
        print_line(console, _this_host_line(found["on_this_host"]))
    if found["vram_bytes"] is not None and found["fits"]:
        free = found["vram_bytes"] - max(found["peak_bytes"].values())
        print_line(console, f"Of {amount(found['vram_bytes'] / 1e9)} GB, {amount(free / 1e9)} GB stay free.")
    if found["remedy"]:
        print_line(console, found["remedy"])
    console.print(_gpu_table(found))
    unit, (total,) = _operations([found["total_flops"]])
    print_line(console, f"In total {total} {unit}. Times leave out loading, optical flow, compositing and previews.")
    if "recipes" in found:
        _show_recipes(console, found)
    else:
        print_line(console, "--compare-recipes shows what the other recipes would take.")


def amount(value: float) -> str:
    """Returns a number with about three digits, never as a power of ten: ``0.04``, ``9.95``, ``49.3``, ``3,040``."""
    if value < 0.005:
        return "< 0.01" if value else "0"
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def estimate(seconds: float) -> str:
    """Returns an estimated time: ``< 1 s``, ``40 s``, ``33 min``, ``6.7 h`` or ``126 days``."""
    if seconds < 1:
        return "< 1 s"
    if seconds < 89.5:
        return f"{round(seconds)} s"
    if seconds < 89.5 * 60:
        return f"{round(seconds / 60)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < HOURS_AT_MOST else f"{round(hours / 24):,} days"


def _operations(flops: Sequence[float]) -> tuple[str, list[str]]:
    """Returns a unit in which the largest number is at least 1, and the numbers in it."""
    scale, unit = next((each for each in UNITS if max(flops) >= each[0]), UNITS[-1])
    return unit, [amount(each / scale) for each in flops]


def _steps(row: dict[str, Any]) -> str:
    return f"{'up to ' if row['may_stop_early'] else ''}{row['train_steps']}"


def _host_line(found: dict[str, Any]) -> str:
    pinned, limit = found["pinned_bytes"], found["host_limit_bytes"]
    line = f"Host memory: at most {amount(found['host_peak_bytes'] / 1e9)} GB"
    line += f", of which {amount(pinned / 1e9)} GB are pinned" if pinned else ""
    return f"{line}." if limit is None else f"{line}. {amount(limit / 1e9)} GB are available."


def _this_host_line(here: dict[str, Any]) -> str:
    """Says what an edit on this machine would do, which has too little host memory for the plan."""
    line = f"This machine has less host memory: {amount(here['host_limit_bytes'] / 1e9)} GB are available."
    return f"{line} " + (f"An edit here would use: {_measures(here)}." if here["fits"] else here["remedy"])


def _measures(found: dict[str, Any]) -> str:
    from loraedit.planning import describe_resources

    return describe_resources(Resources.model_validate(found["resources"])) or "none needed"


def _phase_table(found: dict[str, Any]) -> Table:
    flops = found["phase_flops"]
    unit, counts = _operations(list(flops.values()))
    table = Table("Phase", unit, "Weights GB", "Peak GB", "Host memory GB")
    for name, count in zip(flops, counts, strict=True):
        numbers = (found[kind][name] / 1e9 for kind in ("weights_bytes", "peak_bytes", "host_bytes"))
        table.add_row(PLAN_LABELS[name], count, *map(amount, numbers))
    return table


def _gpu_table(found: dict[str, Any]) -> Table:
    table = Table("GPU", "Memory GB", "Runs as planned", "Estimated time", "Share of speed")
    for gpu in [found["here"], *found["gpus"]]:
        time = "" if gpu["runs"] == "no" else estimate(gpu["seconds"])
        table.add_row(gpu["name"], str(gpu["memory_gb"]), gpu["runs"], time, _share(gpu) if time else "")
    return table


def _share(gpu: dict[str, Any]) -> str:
    """Returns the share of its speed that a GPU reaches, and where that is known from if it is not another GPU's."""
    source = str(gpu["efficiency_source"])
    return f"{gpu['efficiency']:.0%}" if source.startswith("as ") else f"{gpu['efficiency']:.0%} {source}"


def _show_recipes(console: Console, found: dict[str, Any]) -> None:
    """Prints the figures of each recipe, and when to use it."""
    rows = [row for row in found["recipes"] if "refused" not in row]
    unit, counts = _operations([row["total_flops"] for row in rows])
    gpu = rows[0]["gpu"]["name"]
    columns = (Column("Recipe", no_wrap=True), "Steps", "Passes", "Size", unit, "Of paper", "Peak GB", "Here", gpu)
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for row, count in zip(rows, counts, strict=True):
        share = "" if row["paper_share"] is None else f"{row['paper_share']:.0%}"
        table.add_row(
            _marked(row, found), _steps(row), str(row["sampling_forwards"]), row["window"], count, share,
            amount(row["peak_bytes"] / 1e9), _time_on(row["here"]), _time_on(row["gpu"]),
        )  # fmt: skip
    console.print(table)
    for row in found["recipes"]:
        why = f" Refused: {row['refused']}" if "refused" in row else ""
        print_line(console, f"  {_marked(row, found)}: {row['use']}{why}")
    here = rows[0]["here"]["name"]
    print_line(console, f"* is planned above. Options that you give hold for every recipe. Here: {here}.")
    if any(row["may_stop_early"] for row in rows):
        print_line(console, "'Up to': training stops earlier once the held-out loss no longer falls.")


def _marked(row: dict[str, Any], found: dict[str, Any]) -> str:
    return f"{row['recipe']} *" if row["recipe"] == found["recipe"] else str(row["recipe"])


def _time_on(gpu: dict[str, Any]) -> str:
    return estimate(gpu["seconds"]) if gpu["runs"] == "yes" else str(gpu["runs"])
