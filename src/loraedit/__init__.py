"""Edit the first frame of a video; the edit is carried through the whole clip.

    import loraedit

    result = loraedit.edit("clip.mp4", first_frame="edited.png", mask="mask.png", out="result.mp4")

Importing this is cheap: torch and the models load when an edit starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraedit.errors import CacheError, InputError, LoraEditError, ModelError, ShapeError
from loraedit.version import __version__

if TYPE_CHECKING:
    from loraedit.editing import EditResult, Progress
    from loraedit.job.edits import ImageLike
    from loraedit.job.request import ClipLike
    from loraedit.masks.reading import MaskSpec

__all__ = [
    "CacheError",
    "InputError",
    "LoraEditError",
    "ModelError",
    "ShapeError",
    "__version__",
    "edit",
]


def edit(
    source: ClipLike,
    first_frame: ImageLike,
    mask: MaskSpec | None = None,
    *,
    references: Mapping[int, ImageLike] | None = None,
    objects: Sequence[Mapping[str, Any]] = (),
    out: str | Path | None = None,
    run: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> EditResult:
    """Carry the edit of the first frame through the clip.

    Args:
        source: a video file, a folder of frames, a :class:`~loraedit.types.Clip`, or uint8 frames ``[F, H, W, 3]``.
        first_frame: the edited first frame: an image file, or uint8 ``[H, W, 3]``.
        mask: where the edit may change pixels, white = edit. None or ``"auto"``: what the edited frames change and
            what that sits on, followed through the clip. Or a video, a folder, an image for all frames,
            a box ``"x0,y0,x1,y1"``, or an array ``[F, H, W]`` or ``[H, W]``.
        references: further edited frames by frame index, counted from 0.
        objects: several things to edit at once, in place of ``mask``: each a mapping with ``name``, ``mask`` (as above,
            but not ``"auto"``), and if wanted ``references`` (of which this object alone is learnt, inside its mask)
            and ``prompt`` (joined to the prompt).
        out: where to write the result: ``.mp4``, ``.mov`` (H.264), ``.mkv`` (FFV1, lossless), else a folder of PNGs;
            ``codec`` says otherwise. A video keeps the timing, colour tags, sound and titles of a source video.
        run: the run folder with caches, LoRA, log and the lossless result; the same call again continues or reuses
            it. By default beside ``out``; without either, a passing folder is used and removed.
        progress: called with (phase, done, total, note).
        **settings: any field of :class:`loraedit.settings.EditSettings`, such as ``prompt``, ``model``, ``seed``.

    Returns:
        The edited clip with paths, losses and times. The clip is in memory if the source was, or if there is no run
        folder to keep it; else it is read on demand from the run folder.

    Raises:
        InputError: something given cannot be used; nothing was written.
        ModelError: the checkpoint cannot be used.
        CacheError: a file of the run folder is damaged.
    """
    from loraedit.job.edits import object_of
    from loraedit.job.prepare import prepare
    from loraedit.job.request import EditRequest
    from loraedit.settings import make_settings
    from loraedit.types import no_progress

    request = EditRequest(
        source,
        first_frame,
        mask,
        references=dict(references or {}),
        objects=[object_of(each) for each in objects],
        settings=make_settings(settings),
        out=None if out is None else Path(out),
        run=None if run is None else Path(run),
    )
    job = prepare(request, progress or no_progress)
    from loraedit.editing import run_edit

    return run_edit(job, progress) if progress else run_edit(job)
