"""``loraedit edit``: applies an edit of the first frame to the whole clip."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from loraedit.cli.help_panels import INPUTS, MOST_USED
from loraedit.cli.input_options import FirstFrame, MaskOption, Reference
from loraedit.cli.output import JsonOutput, ProgressJson, interruptible, print_json, show_profile, show_result
from loraedit.cli.progress import load_libraries, show_progress
from loraedit.cli.setting_options import with_settings
from loraedit.settings import recipes_for

if TYPE_CHECKING:
    from loraedit.job.prepare import Job

__all__ = ["edit"]


Objects = Annotated[
    list[str] | None,
    typer.Option(
        "--object",
        metavar="NAME:mask=PATH,reference=K=PNG,prompt=TEXT",
        help="One of several objects to edit, each with its own mask, instead of --mask. Its references apply inside "
        "its mask. Can be repeated.",
        rich_help_panel=INPUTS,
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        help="The result: .mp4 or .mov (H.264), .mkv (lossless FFV1), or a folder for PNGs.", rich_help_panel=MOST_USED
    ),
]
Run = Annotated[
    Path | None,
    typer.Option(
        help="The run folder. The same command continues an unfinished run.  [default: beside --out]",
        rich_help_panel=MOST_USED,
    ),
]


@with_settings
def edit(
    source: Annotated[str, typer.Argument(help="The clip: a video file or a folder of frames.")],
    first_frame: FirstFrame,
    mask: MaskOption = "auto",
    reference: Reference = None,
    object_: Objects = None,
    out: Out = Path("edited.mp4"),
    run: Run = None,
    json_output: JsonOutput = False,
    progress_json: ProgressJson = False,
    **settings: Any,
) -> None:
    """Edit a clip: apply your edit of the first frame to all frames. Nothing outside the mask changes."""
    from loraedit.job.edits import parse_object, parse_references
    from loraedit.job.prepare import prepare
    from loraedit.job.request import EditRequest
    from loraedit.settings import make_settings

    began, console = time.monotonic(), Console(stderr=True)
    references, objects = parse_references(reference or []), [parse_object(text) for text in object_ or []]
    chosen = make_settings(settings)
    with interruptible(), show_progress(console, progress_json) as progress:
        job = prepare(EditRequest(source, first_frame, mask, references, objects, chosen, out, run), progress)
        for line in (_recipe_line(job), *job.notes):
            progress.message(line)
        load_libraries(progress)  # torch among them, so only after the request has been checked
        from loraedit.editing import run_edit

        result = run_edit(job, progress)
    wall_s = time.monotonic() - began
    if json_output:
        print_json({**result.summary(), "wall_seconds": round(wall_s, 2)})
        return
    show_result(console, result.summary(), job.notes, wall_s)
    if result.profile:
        show_profile(console, result.profile)


def _recipe_line(job: Job) -> str:
    """Returns what the edit will do, in a line: recipe and steps."""
    settings = job.settings
    name = recipes_for(settings.recipe, job.card.recipe)[0]
    steps = sum(settings.training_steps(len(target.references)) for target in job.targets)
    training = f"at most {steps}" if settings.check_every else str(steps)
    recipe = f"{job.card.folder.name}'s own recipe" if name == "model" else f"Recipe {name}"
    return f"{recipe}: {training} training steps, {settings.sampling_steps} sampling steps."
