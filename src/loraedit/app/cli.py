"""The command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from loraedit.app.lora import lora_app
from loraedit.app.options import with_settings
from loraedit.app.progress import PhaseProgress, quiet_libraries
from loraedit.config import make_settings
from loraedit.errors import InputError, LoraEditError
from loraedit.inputs import parse_reference, prepare
from loraedit.types import OnStep
from loraedit.version import __version__

__all__ = ["app", "main"]

LABELS = {
    "out": "Result", "frames": "Lossless frames", "sheet": "Contact sheet", "side_by_side": "Side by side",
    "lora": "LoRA", "loss_curve": "Loss curve", "run": "Everything else",
}  # fmt: skip

QUIET_S = 2.0
"""Making a mask shows its progress only if it takes longer."""

app = typer.Typer(
    name="loraedit",
    help="Edit the first frame of a video; the edit is carried through the whole clip.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


app.add_typer(lora_app, name="lora")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loraedit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@with_settings
def edit(
    source: Annotated[str, typer.Argument(help="The clip: a video file or a folder of frames.")],
    first_frame: Annotated[str, typer.Option(help="Your edit of the clip's first frame.")],
    mask: Annotated[
        str,
        typer.Option(
            help="Where to edit (white): auto (where the edited frames differ, followed through the clip), a video, "
            "a folder, an image for all frames, or x0,y0,x1,y1."
        ),
    ] = "auto",
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="K=PNG", help="Your edit of frame K (from 0); may be given several times."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help=".mp4 or .mov (H.264), .mkv (lossless FFV1), anything else a folder of PNGs.")
    ] = Path("edited.mp4"),
    run: Annotated[
        Path | None, typer.Option(help="Run folder; the same command again continues it.  [default: beside --out]")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
    **settings: Any,
) -> None:
    """Carry your edit of the first frame through the clip; outside the mask nothing changes."""
    references = _references(reference or [])
    console = Console(stderr=True)
    with PhaseProgress(console, QUIET_S) as waiting:
        on_mask = _mask_progress(waiting)
        job = prepare(source, first_frame, mask, references, make_settings(settings), out, run, on_mask)
    for note in job.notes:
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    with PhaseProgress(console) as progress:
        try:
            from loraedit.editing import run_edit  # heavy: only once everything has been checked

            quiet_libraries("diffusers", "transformers")
            result = run_edit(job, progress)
        except KeyboardInterrupt:
            raise typer.Exit(_complain("stopped. Run the same command again to continue.", 130)) from None
    if json_output:
        typer.echo(json.dumps(result.summary()))
    else:
        _tell(console, result.summary(), job.notes)


@app.command("mask")
def make_a_mask(
    source: Annotated[Path, typer.Argument(help="The clip: a video file or a folder of frames.")],
    out: Annotated[Path, typer.Option(help="A folder for PNGs, or .mkv (lossless FFV1); white is the edit.")],
    from_edit: Annotated[Path | None, typer.Option(help="Your edit of the first frame: mask what it changes.")] = None,
    reference: Annotated[
        list[str] | None, typer.Option(metavar="K=PNG", help="Your edit of frame K (from 0): mask what it changes.")
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option(metavar="K:x,y[:out]", help="A point of frame K on the thing, or off it.")
    ] = None,
    box: Annotated[list[str] | None, typer.Option(metavar="K:x0,y0,x1,y1", help="A box round it in frame K.")] = None,
    seed_mask: Annotated[
        list[str] | None, typer.Option(metavar="K=PNG", help="The thing in frame K, white on black.")
    ] = None,
    tight: Annotated[bool, typer.Option("--tight", help="The thing's own outline, not a loose mask round it.")] = False,
    margin: Annotated[
        float | None, typer.Option(help="Added on each side, as a share of width and height.  [default: 0.15]")
    ] = None,
) -> None:
    """Make a mask for a clip from your edit, or from a few points, boxes or masks; all but SOURCE can be repeated."""
    from loraedit.masking import MaskHints, make_mask, parse_box, parse_point

    edits = _references(reference or [])
    if from_edit is not None and edits.setdefault(0, from_edit) != from_edit:
        raise InputError("There are two edits of frame 0. Give --from-edit, or a reference for frame 0.")
    points, boxes = [parse_point(text) for text in point or []], [parse_box(text) for text in box or []]
    hints = MaskHints(edits, points, boxes, _references(seed_mask or []))
    console = Console(stderr=True)
    with PhaseProgress(console, QUIET_S) as progress:
        made = make_mask(source, hints, out, tight, margin, _mask_progress(progress))
    share = made.mask.mean()
    console.print(f"The mask covers {share:.0%} of the clip. Look at the preview before you use it.", highlight=False)
    for name, path in (("Mask", made.out), ("Preview", made.preview)):
        console.print(f"  {name + ':':17}{path}", highlight=False, soft_wrap=True, markup=False)


def _mask_progress(progress: PhaseProgress) -> OnStep:
    return lambda done, total: progress("mask", done, total, "")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="The run folder of a finished edit.", metavar="RUN")],
    image_encoder: Annotated[
        Path | None,
        typer.Option(help="A CLIP or like model as transformers saves it, for similarities to source and edit."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Measure a finished edit, and write a report page into its run folder that opens offline."""
    from loraedit.evaluate import evaluate_run

    console = Console(stderr=True)
    with console.status("Measuring"):
        if image_encoder is not None:
            quiet_libraries("transformers")
        evaluation = evaluate_run(run, image_encoder)
    if json_output:
        places = {"report": str(evaluation.report), "metrics_file": str(evaluation.file)}
        typer.echo(json.dumps({**places, "metrics": evaluation.metrics}))
        return
    width = max(len(row.name) for row in evaluation.rows()) + 2
    for name, text in [*(row[:2] for row in evaluation.rows()), ("Report", str(evaluation.report))]:
        console.print(f"  {name + ':':{width}}{text}", highlight=False, soft_wrap=True, markup=False)


def _references(texts: list[str]) -> dict[int, Path]:
    """Frame index to path.

    Raises:
        InputError: a text is malformed, or an index is given twice.
    """
    pairs = [parse_reference(text) for text in texts]
    references: dict[int, Path] = {}
    for index, path in pairs:
        if index in references:
            raise InputError(f"There are two references for frame {index}. Give one for each frame.")
        references[index] = path
    return references


def _tell(console: Console, summary: dict[str, Any], told: Sequence[str]) -> None:
    """Where to look, in a few lines; notes that were told before are left out."""
    total = sum(summary["seconds"].values())
    reused = f" (reused: {', '.join(summary['reused'])})" if summary["reused"] else ""
    exact = "equals the source, bit for bit" if summary["outside_exact"] else "differs from the source"
    console.print(f"Done in {total:.0f} s{reused}. Outside the mask every frame {exact}.")
    for note in summary["notes"][len(told) :]:
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    for name, label in LABELS.items():
        if name in summary:
            console.print(f"  {label + ':':17}{summary[name]}", highlight=False, soft_wrap=True, markup=False)


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit code 2, a failing machine one sentence and exit code 1."""
    try:
        app()
    except LoraEditError as error:
        sys.exit(_complain(str(error), 2))
    except OSError as error:
        sys.exit(_complain(f"{error}. Mend it and run the same command again to continue.", 1))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":  # torch's, not imported
            raise
        sys.exit(_complain("out of memory. Use a smaller or shorter clip, or another --device.", 1))


def _complain(message: str, code: int) -> int:
    """One line on standard error; the exit code."""
    sys.stderr.write("loraedit: " + " ".join(message.split()) + "\n")
    return code
