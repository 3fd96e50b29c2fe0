"""``loraedit plan``: estimates what an edit costs before a model is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loraedit.cli.help_panels import INPUTS, MOST_USED
from loraedit.cli.input_options import MaskOption, Reference
from loraedit.cli.output import JsonOutput, print_json
from loraedit.cli.phase_times import duration
from loraedit.cli.progress import Progress, quiet_libraries, show_progress
from loraedit.cli.setting_options import with_plan_settings
from loraedit.errors import InputError
from loraedit.settings import EditSettings, ResolvedSettings, Resources, make_settings
from loraedit.types import Size

__all__ = ["plan"]

PHASES = {
    "text_encode": "Text encoder", "image_encode": "Image encoder", "vae_encode": "VAE, encoding",
    "train": "A training step", "sample": "A sampling pass", "vae_decode": "VAE, decoding",
}  # fmt: skip


ESTIMATE = "Estimate"


@with_plan_settings
def plan(
    source: Annotated[str | None, typer.Argument(help="The clip. Without it, give --size and --frames.")] = None,
    first_frame: Annotated[
        str | None, typer.Option(help="The edited first frame of the clip.", rich_help_panel=MOST_USED)
    ] = None,
    mask: MaskOption = "auto",
    reference: Reference = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Without a clip: its size.", rich_help_panel=INPUTS)
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Without a clip: its number of frames.", rich_help_panel=INPUTS)
    ] = None,
    compare_reference: Annotated[
        bool,
        typer.Option(
            "--compare-reference",
            help="Also count the recipe of LoRA-Edit on the whole frame.",
            rich_help_panel=ESTIMATE,
        ),
    ] = False,
    efficiency: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1.0,
            help="The share of a GPU's published speed that you reach, as measured.",
            rich_help_panel=ESTIMATE,
        ),
    ] = None,
    json_output: JsonOutput = False,
    **settings: Any,
) -> None:
    """Estimate the compute, memory, disk space and time of an edit. No weights are needed."""
    wanted = make_settings(settings)
    if source is not None and (first_frame is None or size is not None or frames is not None):
        raise InputError("A clip needs --first-frame, and neither --size nor --frames.")
    if source is None and (size is None or frames is None or first_frame is not None or reference):
        raise InputError("Give a clip and --first-frame, or --size and --frames without a clip.")
    with show_progress(Console(stderr=True)) as progress:
        if source is not None and first_frame is not None:
            from loraedit.job.edits import parse_references

            references = parse_references(reference or [])
            found = _of_clip(source, first_frame, mask, references, wanted, efficiency, progress)
        else:
            found = _of_size(_parse_size(size or ""), frames or 0, wanted, efficiency, progress)
    if json_output:
        print_json(found)
    else:
        _show(Console(), found, compare_reference)


def _of_clip(
    source: str, first_frame: str, mask: str, references: dict[int, Path], wanted: EditSettings,
    efficiency: float | None, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    from loraedit.families.skeleton import open_skeleton
    from loraedit.job.prepare import prepare
    from loraedit.job.request import EditRequest

    with open_skeleton(wanted.model) as card:
        job = prepare(EditRequest(source, first_frame, mask, references, settings=wanted), progress, card)
        from loraedit.planning import largest_window, segment_lengths  # imports torch, so only after the checks

        return _measure(card, job.settings, job.source.size, largest_window(job), segment_lengths(job), job.area_px,
                        len(references), efficiency, progress, len(job.source))  # fmt: skip


def _of_size(
    size: Size, frames: int, wanted: EditSettings, efficiency: float | None, progress: Progress
) -> dict[str, Any]:
    from loraedit.families.skeleton import open_skeleton
    from loraedit.job.segments import cut_in_time
    from loraedit.video.decoding import MAX_FRAMES

    if frames > MAX_FRAMES:
        raise InputError(f"A clip has at most {MAX_FRAMES} frames, not {frames}. Plan for a shorter one.")
    with open_skeleton(wanted.model) as card:
        settings = wanted.resolved(card.recipe)
        area_px = round(size.height * size.width * settings.area)
        lengths = [len(segment) for segment in cut_in_time(frames, [size], area_px, settings, card)]
        return _measure(card, settings, size, size, lengths, area_px, 0, efficiency, progress, frames)


def _measure(
    card: Any, settings: ResolvedSettings, frame: Size, window: Size, frames: list[int], area_px: int, references: int,
    efficiency: float | None, progress: Progress, clip_frames: int,
) -> dict[str, Any]:  # fmt: skip
    """Returns the plan as JSON values, with the compute of LoRA-Edit's recipe."""
    from loraedit.planning import Shape, make_plan, measure_device, parse_vram, reference_flops, work_of
    from loraedit.planning.gpus import EFFICIENCY
    from loraedit.runtime.devices import find_device
    from loraedit.video.scaling import working_size

    quiet_libraries("diffusers", "transformers")
    device = find_device(settings.device)
    budget, on_step = parse_vram(settings.vram, device), progress.steps("plan")
    work = work_of(card, settings, window, frames, area_px, references, clip_frames)
    rate = efficiency or EFFICIENCY
    whole_px = min(int(card.settings.area_px), frame.height * frame.width)
    whole = Shape(work.shape.frames, working_size(frame, max(area_px, whole_px), card.multiple_px))
    reference = reference_flops(card, whole, on_step)
    found = make_plan(card, settings.model, frame, work, budget, settings.resources, rate, on_step)
    here = found.on(measure_device(device))
    return {**found.as_json(), "here": here, "reference_total_flops": reference}


def _parse_size(text: str) -> Size:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None or "0" in match.groups():
        raise InputError(f"The size '{text}' is not of the form WIDTHxHEIGHT, such as 832x480.")
    return Size(int(match[2]), int(match[1]))


def _show(console: Console, found: dict[str, Any], compare: bool) -> None:
    """Prints the plan as tables."""
    from loraedit.planning import describe_resources

    console.print(
        f"{found['model']}: {found['frames']} frames at {found['window']} ({found['tokens']} tokens), "
        f"{found['train_steps']} training steps, {found['sampling_forwards']} sampling passes",
        highlight=False,
    )
    console.print(_phase_table(found))
    measures = describe_resources(Resources.model_validate(found["resources"])) or "none needed"
    console.print(f"Memory saving: {measures}. Disk space: at most {found['disk_bytes'] / 1e9:.3g} GB.")
    if found["vram_bytes"] is not None:
        free = found["vram_bytes"] - max(found["peak_bytes"].values())
        console.print(f"Of {found['vram_bytes'] / 1e9:.3g} GB, {free / 1e9:.3g} GB stay free. {found['remedy']}")
    console.print(_gpu_table(found))
    total = found["total_flops"]
    console.print(f"In total {total:.3g} FLOPs.", highlight=False)
    if compare:
        reference = found["reference_total_flops"]
        console.print(
            f"LoRA-Edit's recipe on the whole frame: {reference:.3g} FLOPs, {reference / total:.3g} times as many.",
            highlight=False,
        )


def _phase_table(found: dict[str, Any]) -> Table:
    table = Table("Phase", "TFLOPs", "Weights GB", "Peak GB", "In host memory GB")
    for name, label in PHASES.items():
        if name in found["phase_flops"]:
            numbers = (found[kind][name] / 1e9 for kind in ("weights_bytes", "peak_bytes", "host_bytes"))
            table.add_row(label, f"{found['phase_flops'][name] / 1e12:.4g}", *(f"{value:.3g}" for value in numbers))
    return table


def _gpu_table(found: dict[str, Any]) -> Table:
    table = Table("GPU", "Memory GB", "Fits as planned", "Estimated time")
    for gpu in [found["here"], *found["gpus"]]:
        fits = "yes" if gpu["fits"] else "no"
        table.add_row(gpu["name"], str(gpu["memory_gb"]), fits, duration(gpu["seconds"]))
    return table
