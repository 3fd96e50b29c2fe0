"""``loraedit doctor``: shows what this machine has, and which models it can run."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from loraedit.cli.output import JsonOutput, print_json, print_line
from loraedit.cli.progress import Progress, quiet_libraries, show_progress
from loraedit.types import Size

__all__ = ["doctor"]

PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "av", "numpy")
ENCODERS = {
    "h264": "libx264", "h265": "libx265", "av1": "libsvtav1", "prores": "prores_ks", "ffv1": "ffv1", "png": "png",
}  # fmt: skip
FRAMES = 49
"""The length of the clip that the models are planned for, each at its own size."""


def doctor(
    json_output: JsonOutput = False,
) -> None:
    """Show the hardware of this machine and which models fit. Nothing is downloaded."""
    with show_progress(Console(stderr=True)) as progress:
        quiet_libraries("diffusers", "transformers")
        found = {
            "machine": _machine(), "devices": _devices(), "versions": {name: version(name) for name in PACKAGES},
            "codecs": _codecs(), "models": _models(progress),
        }  # fmt: skip
    if json_output:
        print_json(found)
    else:
        _show(Console(), found)


def _machine() -> dict[str, Any]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    return {
        "system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count(),
        "memory_bytes": pages,
    }  # fmt: skip


def _devices() -> list[dict[str, Any]]:
    """Returns the accelerators that torch can use."""
    import torch

    if not torch.accelerator.is_available():
        return []
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    devices = []
    for index in range(torch.accelerator.device_count()):
        row: dict[str, Any] = {"device": f"{kind.type}:{index}", "name": kind.type, "memory_bytes": None}
        if kind.type == "cuda":
            facts = torch.cuda.get_device_properties(index)
            row |= {"name": facts.name, "memory_bytes": facts.total_memory}
        devices.append(row)
    return devices


def _codecs() -> dict[str, bool]:
    """Returns which values of --codec this build of FFmpeg can write."""
    import av

    return {name: encoder in av.codecs_available for name, encoder in ENCODERS.items()}


def _models(progress: Progress) -> list[dict[str, Any]]:
    """Returns the models on this machine, each with its plan or its problem."""
    from loraedit.families.card import NANO
    from loraedit.families.inventory import state_in_cache
    from loraedit.families.known import known_models

    rows = [{"model": "nano", "folder": str(NANO), "problem": None, **_run_of("nano", Size(64, 64), progress)}]
    for known in known_models():
        found = state_in_cache(known)
        if found is not None:
            size = Size(known.height, known.width)
            run = _run_of(known.id, size, progress) if found.problem is None else {}
            rows.append({"model": known.id, "folder": str(found.folder), "problem": found.problem, **run})
    return rows


def _run_of(model: str, size: Size, progress: Progress) -> dict[str, Any]:
    """Plans an edit of a clip of the model's own size on the best device."""
    from loraedit.families.skeleton import open_skeleton
    from loraedit.planning import (
        Limits,
        describe_resources,
        make_plan,
        measure_device,
        parse_vram,
        this_host_bytes,
        work_of,
    )
    from loraedit.runtime.devices import find_device
    from loraedit.settings import make_settings

    device = find_device(None)
    budget = parse_vram("auto", device)
    limits = None if budget is None else Limits(budget, this_host_bytes())
    with open_skeleton(model) as card:
        settings = make_settings({"model": model}).resolved(card.recipe)
        work = work_of(card, settings, card.working_size(size, settings), [FRAMES], 0)
        plan = make_plan(
            card, model, size, work, limits, settings.resources,
            on_step=lambda done, total: progress("plan", done, total, model),
        )  # fmt: skip
    return {
        "device": str(device),
        "frames": FRAMES,
        "size": str(work.shape.size),
        "fits": plan.fits if limits is not None else None,
        "runs": plan.runs_on(measure_device(device)) if plan.fits else "no",
        "peak_bytes": max(cost.peak_bytes for cost in plan.costs.values()),
        "means": describe_resources(plan.resources) if limits is not None else "",
    }


def _show(console: Console, found: dict[str, Any]) -> None:
    """Prints the findings."""
    machine = found["machine"]
    memory = f"{machine['memory_bytes'] / 1e9:.0f} GB" if machine["memory_bytes"] else "unknown"
    console.print(f"{machine['system']}, {machine['cores']} cores, {memory} of memory, Python {machine['python']}")
    for row in found["devices"]:
        size = f", {row['memory_bytes'] / 1e9:.0f} GB" if row["memory_bytes"] else ""
        console.print(f"{row['device']}: {row['name']}{size}")
    if not found["devices"]:
        console.print("torch finds no GPU. nano runs on the CPU; the large models do not.")
    console.print(", ".join(f"{name} {number}" for name, number in found["versions"].items()), highlight=False)
    console.print("Codecs: " + ", ".join(name if there else f"no {name}" for name, there in found["codecs"].items()))
    table = Table("Model found", "Clip", "Device", "Needs GB", "Runs", "Memory saving")
    for row in (row for row in found["models"] if row["problem"] is None):
        runs = "not at this size" if row["runs"] == "no" else row["runs"]
        table.add_row(
            row["model"], f"{row['frames']} frames, {row['size']}", row["device"], f"{row['peak_bytes'] / 1e9:.3g}",
            runs, row["means"] or "none needed",
        )  # fmt: skip
    console.print(table)
    for row in (row for row in found["models"] if row["problem"] is not None):
        print_line(console, f"{row['model']} cannot be used: {row['problem']}")
    console.print("'loraedit models' lists all supported models. 'loraedit plan' estimates what an edit needs.")
