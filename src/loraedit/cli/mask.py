"""``loraedit mask``: makes a mask from an edit, or from points, boxes, strokes and words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from loraedit.cli.help_panels import OUTPUT
from loraedit.cli.output import ProgressJson, print_line
from loraedit.cli.progress import quiet_libraries, show_progress
from loraedit.errors import InputError

if TYPE_CHECKING:
    from loraedit.mask_maker.hints import MaskHints

__all__ = ["mask"]

HINTS = "Where the object is (each option can be repeated)"
TRACKING = "Tracking"
SHAPE = "Shape of the mask"

Texts = list[str] | None


def _option(panel: str, help_text: str, metavar: str | None = None) -> Any:
    return typer.Option(help=help_text, metavar=metavar, rich_help_panel=panel)


FromEdit = Annotated[Path | None, _option(HINTS, "The edited first frame: mask what it changes.")]
Reference = Annotated[Texts, _option(HINTS, "The edited frame K: mask what it changes.", "K=PNG")]
Point = Annotated[Texts, _option(HINTS, "A point in frame K on the object, or outside it.", "K:x,y[:out]")]
Box = Annotated[Texts, _option(HINTS, "A box around the object in frame K.", "K:x0,y0,x1,y1")]
Stroke = Annotated[Texts, _option(HINTS, "A brush stroke on the object, or outside it.", "K:x,y,x,y,...[:out]")]
SeedMask = Annotated[Texts, _option(HINTS, "The object in frame K, white on black.", "K=PNG")]
Words = Annotated[str | None, _option(HINTS, "The object in words, for --tracker sam3.")]
Override = Annotated[Texts, _option(HINTS, "The finished mask of frame K, used as it is.", "K=PNG")]

Tracker = Annotated[str, _option(TRACKING, "The tracker: embedded, sam2, edgetam or sam3.")]
TrackerModel = Annotated[Path | None, _option(TRACKING, "The folder of its weights, in the layout of transformers.")]
Device = Annotated[str | None, _option(TRACKING, "The device, such as cuda.  [default: the best available]")]

Tight = Annotated[
    bool, typer.Option("--tight", help="Mask the object's outline without room around it.", rich_help_panel=SHAPE)
]
Shape = Annotated[str, _option(SHAPE, "The shape without --tight: box, hull or outline.")]
Margin = Annotated[
    float | None, _option(SHAPE, "Room on each side, as a share of the object's width and height.  [default: 0.15]")
]
DilatePx = Annotated[float, _option(SHAPE, "Grow the mask by this many pixels.")]
Smooth = Annotated[int, _option(SHAPE, "Average the outline over this many frames on both sides.")]
FillHoles = Annotated[bool, typer.Option("--fill-holes", help="Fill holes.", rich_help_panel=SHAPE)]
FeatherPx = Annotated[float, _option(SHAPE, "Blur the border by this many pixels on both sides.")]


def mask(
    source: Annotated[Path, typer.Argument(help="The clip: a video file or a folder of frames.")],
    out: Annotated[Path, _option(OUTPUT, "A folder for PNGs, or .mkv (lossless FFV1). White is edited.")],
    from_edit: FromEdit = None,
    reference: Reference = None,
    point: Point = None,
    box: Box = None,
    stroke: Stroke = None,
    seed_mask: SeedMask = None,
    text: Words = None,
    override: Override = None,
    tracker: Tracker = "embedded",
    tracker_model: TrackerModel = None,
    device: Device = None,
    tight: Tight = False,
    shape: Shape = "box",
    margin: Margin = None,
    dilate_px: DilatePx = 0.0,
    smooth: Smooth = 0,
    fill_holes: FillHoles = False,
    feather_px: FeatherPx = 0.0,
    progress_json: ProgressJson = False,
) -> None:
    """Make a mask from your edit, or from points, boxes or words."""
    from loraedit.job.edits import parse_references
    from loraedit.mask_maker.finish import Finish
    from loraedit.mask_maker.make import make_mask

    hints = _hints(from_edit, reference or [], point or [], box or [], stroke or [], seed_mask or [], text)
    finish = Finish(tight, shape, margin, dilate_px, smooth, fill_holes, feather_px, parse_references(override or []))
    console = Console(stderr=True)
    with show_progress(console, progress_json) as progress:
        if tracker != "embedded":
            quiet_libraries("transformers")
        made = make_mask(source, hints, out, finish, tracker, tracker_model, device, progress.steps("mask"))
    share = made.mask.share()
    print_line(console, f"The mask covers {share:.0%} of the clip. Check the preview before you use it.")
    for name, path in (("Mask", made.out), ("Preview", made.preview)):
        print_line(console, f"  {name + ':':17}{path}")


def _hints(
    from_edit: Path | None, references: list[str], points: list[str], boxes: list[str], strokes: list[str],
    seed_masks: list[str], text: str | None,
) -> MaskHints:  # fmt: skip
    """Returns the parsed hints.

    Raises:
        InputError: a hint has the wrong form, or frame 0 has two edits.
    """
    from loraedit.job.edits import parse_references
    from loraedit.mask_maker.hints import MaskHints, parse_box, parse_point, parse_stroke

    edits = parse_references(references)
    if from_edit is not None and edits.setdefault(0, from_edit) != from_edit:
        raise InputError("Frame 0 has two edits. Give either --from-edit or --reference 0=PNG.")
    return MaskHints(
        edits,
        [parse_point(value) for value in points],
        [parse_box(value) for value in boxes],
        [parse_stroke(value) for value in strokes],
        parse_references(seed_masks),
        text,
    )
