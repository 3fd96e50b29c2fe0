"""``loraedit plan``: what an edit would cost, before anything loads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loraedit.cli.progress import PhaseProgress, quiet_libraries
from loraedit.cli.setting_options import with_settings
from loraedit.errors import InputError
from loraedit.job.edits import parse_references
from loraedit.settings import EditSettings, ResolvedSettings, Resources, make_settings
from loraedit.types import OnStep, Size

__all__ = ["plan"]

PHASES = {
    "text_encode": "Text encoder", "image_encode": "Image encoder", "vae_encode": "VAE, encoding",
    "train": "A training step", "sample": "A sampling pass", "vae_decode": "VAE, decoding",
}  # fmt: skip


@with_settings
def plan(
    source: Annotated[str | None, typer.Argument(help="The clip, or nothing if --size and --frames are given.")] = None,
    first_frame: Annotated[str | None, typer.Option(help="Your edit of the clip's first frame.")] = None,
    mask: Annotated[str, typer.Option(help="Where to edit, as for edit.")] = "auto",
    reference: Annotated[list[str] | None, typer.Option(metavar="K=PNG", help="Your edit of frame K.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Without a clip: its size.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Without a clip: its length.")] = None,
    compare_reference: Annotated[
        bool, typer.Option("--compare-reference", help="Count LoRA-Edit's own recipe on the whole frame beside it.")
    ] = False,
    efficiency: Annotated[
        float | None,
        typer.Option(min=0.01, max=1.0, help="Share of a card's published speed that you get; measure it once."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    **settings: Any,
) -> None:
    """Say what an edit needs: computing, memory by phase, disk and time. No weights are needed."""
    wanted = make_settings(settings)
    console = Console(stderr=True)
    quiet_libraries("diffusers", "transformers")
    with PhaseProgress(console, 2.0) as progress:
        if source is not None:
            if first_frame is None or size is not None or frames is not None:
                raise InputError("A clip needs --first-frame, and neither --size nor --frames.")
            found = _of_clip(source, first_frame, mask, parse_references(reference or []), wanted, efficiency, progress)
        else:
            if size is None or frames is None or first_frame is not None or reference:
                raise InputError("Give a clip and --first-frame, or --size and --frames without a clip.")
            found = _of_size(_parse_size(size), frames, wanted, efficiency, progress)
    if json_output:
        typer.echo(json.dumps(found))
    else:
        _show(Console(), found, compare_reference)


def _of_clip(
    source: str, first_frame: str, mask: str, references: dict[int, Path], wanted: EditSettings,
    efficiency: float | None, progress: PhaseProgress,
) -> dict[str, Any]:  # fmt: skip
    from loraedit.job.prepare import prepare
    from loraedit.job.request import EditRequest
    from loraedit.planning import lengths, open_skeleton, seen

    with open_skeleton(wanted.model) as card:
        job = prepare(EditRequest(source, first_frame, mask, references, settings=wanted), progress, card)
        return _measure(card, job.settings, job.source.size, seen(job), lengths(job), job.area_px,
                        len(references), efficiency, progress, len(job.source))  # fmt: skip


def _of_size(
    size: Size, frames: int, wanted: EditSettings, efficiency: float | None, progress: PhaseProgress
) -> dict[str, Any]:
    from loraedit.job.segments import cut_in_time
    from loraedit.planning import open_skeleton
    from loraedit.video.decoding import MAX_FRAMES

    if frames > MAX_FRAMES:
        raise InputError(f"A clip has at most {MAX_FRAMES} frames, not {frames}. Plan for a shorter one.")
    with open_skeleton(wanted.model) as card:
        area_px, settings = round(size.height * size.width * wanted.area), wanted.resolved(card.recipe)
        lengths = [len(segment) for segment in cut_in_time(frames, [size], area_px, settings, card)]
        return _measure(card, settings, size, size, lengths, area_px, 0, efficiency, progress, frames)


def _measure(
    card: Any, settings: ResolvedSettings, frame: Size, window: Size, frames: list[int], area_px: int, references: int,
    efficiency: float | None, progress: PhaseProgress, clip_frames: int,
) -> dict[str, Any]:  # fmt: skip
    """The plan as JSON values, with the reference recipe's count."""
    from loraedit.planning import Shape, card_here, make_plan, parse_vram, reference_flops, work_of
    from loraedit.planning.cards import EFFICIENCY
    from loraedit.runtime.devices import find_device
    from loraedit.video.scaling import working_size

    device = find_device(settings.device)
    budget, told = parse_vram(settings.vram, device), _told(progress, "plan")
    work = work_of(card, settings, window, frames, area_px, references, clip_frames)
    rate = efficiency or EFFICIENCY
    found = make_plan(card, settings.model, frame, work, budget, settings.resources, rate, told)
    whole_px = min(int(card.settings.area_px), frame.height * frame.width)
    whole = Shape(work.shape.frames, working_size(frame, max(area_px, whole_px), card.multiple_px))
    here = found.on(card_here(device))
    return {**found.as_json(), "here": here, "reference_total_flops": reference_flops(card, whole, told)}


def _parse_size(text: str) -> Size:
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None or "0" in match.groups():
        raise InputError(f"The size '{text}' is not of the form WIDTHxHEIGHT, such as 832x480.")
    return Size(int(match[2]), int(match[1]))


def _told(progress: PhaseProgress, phase: str) -> OnStep:
    return lambda done, total: progress(phase, done, total, "")


def _show(console: Console, found: dict[str, Any], compare: bool) -> None:
    """Tables for people."""
    from loraedit.planning import named

    console.print(
        f"{found['model']}: {found['frames']} frames at {found['window']} ({found['tokens']} tokens), "
        f"{found['train_steps']} training steps, {found['sampling_forwards']} sampling passes",
        highlight=False,
    )
    phases = Table("Phase", "TFLOPs", "Weights GB", "Peak GB", "In host memory GB")
    for name, label in PHASES.items():
        if name in found["phase_flops"]:
            numbers = (found[kind][name] / 1e9 for kind in ("weights_bytes", "peak_bytes", "host_bytes"))
            phases.add_row(label, f"{found['phase_flops'][name] / 1e12:.4g}", *(f"{value:.3g}" for value in numbers))
    console.print(phases)
    means = named(Resources.model_validate(found["resources"])) or "none needed"
    console.print(f"Means: {means}. Disk: {found['disk_bytes'] / 1e9:.3g} GB at most.")
    if found["vram_bytes"] is not None:
        least = found["vram_bytes"] - max(found["peak_bytes"].values())
        console.print(f"Of {found['vram_bytes'] / 1e9:.3g} GB, {least / 1e9:.3g} GB stay free. {found['remedy']}")
    cards = Table("Card", "Memory GB", "Fits as planned", "Time, estimated")
    for card in [found["here"], *found["cards"]]:
        fits = "yes" if card["fits"] else "no"
        cards.add_row(card["name"], str(card["memory_gb"]), fits, _duration(card["seconds"]))
    console.print(cards)
    total = found["total_flops"]
    console.print(f"In all {total:.3g} FLOPs.", highlight=False)
    if compare:
        reference = found["reference_total_flops"]
        console.print(
            f"LoRA-Edit's own recipe on the whole frame: {reference:.3g} FLOPs, {reference / total:.3g} times as many.",
            highlight=False,
        )


def _duration(seconds: float) -> str:
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
