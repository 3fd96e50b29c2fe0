"""The command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from loraedit.cli.batch import batch
from loraedit.cli.doctor import doctor
from loraedit.cli.lora import lora_app
from loraedit.cli.plan import plan
from loraedit.cli.progress import JsonProgress, PhaseProgress, quiet_libraries
from loraedit.cli.setting_options import with_settings
from loraedit.cli.store import store
from loraedit.errors import InputError, LoraEditError, explain
from loraedit.job.edits import parse_object, parse_references
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.runtime.ranks import leads, processes
from loraedit.settings import make_settings
from loraedit.types import OnStep
from loraedit.version import __version__

__all__ = ["app", "main"]

LABELS = {
    "out": "Result", "frames": "Lossless frames", "sheet": "Contact sheet", "side_by_side": "Side by side",
    "preview": "Preview", "lora": "LoRA", "loss_curve": "Loss curve", "profile": "Profile", "run": "Everything else",
}  # fmt: skip

QUIET_S = 2.0
"""Reading a clip and making a mask show their progress only if they take longer."""

ProgressJson = Annotated[
    bool, typer.Option("--progress-json", help="Progress as lines of JSON on standard error, for programs.")
]

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
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if processes() > 1:
        from loraedit.runtime.distributed import assist, dismiss

        if not leads():
            assist()
            raise typer.Exit
        context.call_on_close(dismiss)


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
    object_: Annotated[
        list[str] | None,
        typer.Option(
            "--object",
            metavar="NAME:mask=PATH,reference=K=PNG,prompt=TEXT",
            help="One of several things to edit at once, in place of --mask; may be given several times, as may its "
            "references, which count inside its own mask.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help=".mp4 or .mov (H.264), .mkv (lossless FFV1), anything else a folder of PNGs.")
    ] = Path("edited.mp4"),
    run: Annotated[
        Path | None, typer.Option(help="Run folder; the same command again continues it.  [default: beside --out]")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
    progress_json: ProgressJson = False,
    **settings: Any,
) -> None:
    """Carry your edit of the first frame through the clip; outside the mask nothing changes."""
    references, objects = parse_references(reference or []), [parse_object(text) for text in object_ or []]
    console = Console(stderr=True)
    with _progress(console, progress_json, QUIET_S) as waiting:
        request = EditRequest(source, first_frame, mask, references, objects, make_settings(settings), out, run)
        job = prepare(request, waiting)
    for note in job.notes:
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    with _progress(console, progress_json) as progress:
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
        if result.profile:
            _show_profile(console, result.profile)


@app.command()
def repeat(
    run: Annotated[Path, typer.Argument(help="The run folder of a finished edit.", metavar="RUN")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the result; sound and timing of the first source are not kept.")
    ] = None,
    new_run: Annotated[
        Path | None, typer.Option("--run", help="The new run folder.  [default: beside --out, or RUN-repeat]")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
    progress_json: ProgressJson = False,
) -> None:
    """Carry out the edit of a run folder again in another, and compare: the same versions give the same bytes."""
    from loraedit.editing.repeat import plan_repetition

    console = Console(stderr=True)
    repetition = plan_repetition(run, out, new_run)
    for note in repetition.differences:
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    with _progress(console, progress_json) as progress:
        quiet_libraries("diffusers", "transformers")
        try:
            result, same = repetition.carry_out(progress)
        except KeyboardInterrupt:
            raise typer.Exit(_complain("stopped. Run the same command again to continue.", 130)) from None
    if json_output:
        typer.echo(json.dumps({**result.summary(), "same": same, "differences": repetition.differences}))
        return
    _tell(console, result.summary(), repetition.job.notes)
    console.print(f"Frames and LoRA {'equal those of the run, byte for byte' if same else 'differ from the run'}.")


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
    stroke: Annotated[
        list[str] | None,
        typer.Option(metavar="K:x,y,x,y,...[:out]", help="A brush stroke on it, or off it."),
    ] = None,
    seed_mask: Annotated[
        list[str] | None, typer.Option(metavar="K=PNG", help="The thing in frame K, white on black.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="The thing in words, with --tracker sam3.")] = None,
    tracker: Annotated[str, typer.Option(help="What follows it: embedded, sam2, edgetam or sam3.")] = "embedded",
    tracker_model: Annotated[
        Path | None, typer.Option(help="Folder of that tracker's weights, as transformers saves them.")
    ] = None,
    tight: Annotated[bool, typer.Option("--tight", help="The thing's own outline, not a loose mask round it.")] = False,
    shape: Annotated[str, typer.Option(help="Of a loose mask: box, hull or outline.")] = "box",
    margin: Annotated[
        float | None, typer.Option(help="Added on each side, as a share of width and height.  [default: 0.15]")
    ] = None,
    dilate_px: Annotated[float, typer.Option(help="Grow the mask by so many pixels.")] = 0.0,
    smooth: Annotated[int, typer.Option(help="Average the outline over so many frames before and after.")] = 0,
    fill_holes: Annotated[bool, typer.Option("--fill-holes", help="Leave nothing out inside.")] = False,
    feather_px: Annotated[
        float,
        typer.Option(help="Soften the border in the file, so many pixels each way."),
    ] = 0.0,
    override: Annotated[
        list[str] | None, typer.Option(metavar="K=PNG", help="The mask of frame K as it shall be.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where weights run; by default the best there is.")] = None,
    progress_json: ProgressJson = False,
) -> None:
    """Make a mask for a clip from your edit, or from what you point at; what concerns a frame K can be repeated."""
    from loraedit.mask_maker.finish import Finish
    from loraedit.mask_maker.hints import MaskHints, parse_box, parse_point, parse_stroke
    from loraedit.mask_maker.make import make_mask

    edits = parse_references(reference or [])
    if from_edit is not None and edits.setdefault(0, from_edit) != from_edit:
        raise InputError("There are two edits of frame 0. Give --from-edit, or a reference for frame 0.")
    hints = MaskHints(
        edits,
        [parse_point(each) for each in point or []],
        [parse_box(each) for each in box or []],
        [parse_stroke(each) for each in stroke or []],
        parse_references(seed_mask or []),
        text,
    )
    finish = Finish(tight, shape, margin, dilate_px, smooth, fill_holes, feather_px, parse_references(override or []))
    console = Console(stderr=True)
    with _progress(console, progress_json, QUIET_S) as progress:
        if tracker != "embedded":
            quiet_libraries("transformers")
        told = _phase_progress(progress, "mask")
        made = make_mask(source, hints, out, finish, tracker, tracker_model, device, told)
    share = made.mask.share()
    console.print(f"The mask covers {share:.0%} of the clip. Look at the preview before you use it.", highlight=False)
    for name, path in (("Mask", made.out), ("Preview", made.preview)):
        console.print(f"  {name + ':':17}{path}", highlight=False, soft_wrap=True, markup=False)


def _progress(console: Console, as_json: bool, wait_s: float = 0.0) -> PhaseProgress | JsonProgress:
    return JsonProgress(sys.stderr) if as_json else PhaseProgress(console, wait_s)


def _phase_progress(progress: PhaseProgress | JsonProgress, phase: str) -> OnStep:
    return lambda done, total: progress(phase, done, total, "")


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


@app.command()
def web(
    port: Annotated[int, typer.Option(help="Where the page is served.", min=1, max=65535)] = 7860,
    folder: Annotated[Path, typer.Option(help="Where uploads and runs are kept.")] = Path("loraedit-web"),
    model: Annotated[
        list[str] | None,
        typer.Option(help="A further model that the page offers beside nano: a folder or a Hub id; several times."),
    ] = None,
    max_upload_mb: Annotated[int, typer.Option(help="The largest file that is taken.", min=1, max=1_000_000)] = 512,
    share_on_lan: Annotated[
        bool, typer.Option("--share-on-lan", help="Serve the local network too; needs --password.")
    ] = False,
    password: Annotated[
        str | None,
        typer.Option(help="Asked for before anything is shown; 8 characters at least.", envvar="LORAEDIT_WEB_PASSWORD"),
    ] = None,
) -> None:
    """Serve a page on which everything can be done by hand: clip, edit, mask, run, result."""
    from loraedit.web import WebOptions, serve

    serve(WebOptions(port, folder, ["nano", *(model or [])], max_upload_mb, share_on_lan, password))


@app.command()
def models(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Checkpoint folders, or folders that hold some, to look at as well.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the models that are supported, with size and licence, and what of them is on this machine."""
    from loraedit.cli.models import model_rows, show_models
    from loraedit.families.inventory import find_models

    rows, found = model_rows(), find_models(folders or [])
    if json_output:
        places = [{"folder": str(each.folder), "problem": each.problem} for each in found]
        typer.echo(json.dumps({"models": rows, "folders": places}))
    else:
        show_models(rows, found)


def _tell(console: Console, summary: dict[str, Any], told: Sequence[str]) -> None:
    """Where to look, in a few lines; notes that were told before are left out."""
    total = sum(summary["seconds"].values())
    reused = f" (reused: {', '.join(summary['reused'])})" if summary["reused"] else ""
    exact = "equals the source, bit for bit" if summary["outside_exact"] else "differs from the source"
    console.print(f"Done in {total:.0f} s{reused}. Outside the mask every frame {exact}.")
    steps, seconds = summary["saved"]["train_steps"], summary["saved"]["seconds"]
    if steps:
        took = f", which took {seconds:.0f} s" if seconds >= 1 else ""
        console.print(f"What was reused saved {steps} training steps{took}.", highlight=False)
    for note in summary["notes"][len(told) :]:
        console.print(note, highlight=False, soft_wrap=True, markup=False)
    for name, label in LABELS.items():
        if name in summary:
            console.print(f"  {label + ':':17}{summary[name]}", highlight=False, soft_wrap=True, markup=False)


def _show_profile(console: Console, rows: Sequence[tuple[str, str, float, int]]) -> None:
    """Where the time went, phase by phase."""
    table, total = Table("Phase", "Within", "Seconds", "Share", "Calls"), sum(row[2] for row in rows)
    for phase, part, seconds, calls in rows:
        table.add_row(phase, part, f"{seconds:.2f}", f"{seconds / total:.0%}", str(calls))
    console.print(table)


app.command()(batch)
app.command()(plan)
app.command()(store)
app.command()(doctor)


def main() -> None:
    """Entry point: what the user can mend is one sentence and exit code 2, too little memory one and exit code 1."""
    try:
        app()
    except Exception as error:
        told = explain(error)
        if told is None:
            raise
        sys.exit(_complain(told, 2 if isinstance(error, LoraEditError | OSError) else 1))


def _complain(message: str, code: int) -> int:
    """One line on standard error; the exit code."""
    sys.stderr.write("loraedit: " + " ".join(message.split()) + "\n")
    return code
