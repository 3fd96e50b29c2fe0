"""Edits a video clip from an edit of its first frame.

    import loraedit

    result = loraedit.edit("clip.mp4", first_frame="edited.png", mask="mask.png", out="result.mp4")

The import is fast: torch and the models load when an edit starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraedit.errors import CacheError, InputError, LoraEditError, ModelError, ShapeError
from loraedit.version import __version__

if TYPE_CHECKING:
    from loraedit.editing import EditResult
    from loraedit.job.edits import ImageLike
    from loraedit.job.request import ClipLike
    from loraedit.masks.reading import MaskSpec
    from loraedit.types import Progress

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
    """Edits a clip: applies the edit of the first frame to all frames.

    Args:
        source: a video file, a folder of frames, a :class:`~loraedit.types.Clip`, or uint8 frames ``[F, H, W, 3]``.
        first_frame: the edited first frame: an image file, or uint8 ``[H, W, 3]``.
        mask: where pixels may change; white is edited. None or ``"auto"`` tracks what the edited frames change.
            Otherwise a video, a folder, an image for all frames, a box ``"x0,y0,x1,y1"``, or an array ``[F, H, W]`` or
            ``[H, W]``.
        references: further edited frames by frame index, counted from 0.
        objects: several objects to edit, instead of ``mask``. Each is a mapping with ``name`` and ``mask`` (as above,
            but not ``"auto"``). ``references`` (which apply inside its mask) and ``prompt`` (appended to the prompt)
            are optional.
        out: where to write the result: ``.mp4`` or ``.mov`` (H.264), ``.mkv`` (lossless FFV1), or a folder for PNGs;
            the setting ``codec`` overrides the format. A video keeps the timing, colour tags, sound and titles of a
            source video.
        run: the run folder with caches, LoRAs, log and the lossless result. The same call again continues or reuses
            it. By default it is beside ``out``; without either, a temporary folder is used and removed.
        progress: called with (phase, done, total, note).
        **settings: any field of :class:`loraedit.settings.EditSettings`, such as ``prompt``, ``model`` or ``seed``.

    Returns:
        The edited clip with paths, losses and times. The clip is in memory if the source was, or if there is no run
        folder; otherwise it is read on demand from the run folder.

    Raises:
        InputError: an argument is not valid. Nothing was written.
        ModelError: the checkpoint cannot be used.
        CacheError: a file of the run folder is damaged.
    """
    from loraedit.job.edits import object_of
    from loraedit.job.prepare import prepare
    from loraedit.job.request import EditRequest
    from loraedit.settings import make_settings
    from loraedit.types import no_progress

    request = EditRequest(
        source, first_frame, mask, dict(references or {}), [object_of(mapping) for mapping in objects],
        make_settings(settings), None if out is None else Path(out), None if run is None else Path(run),
    )  # fmt: skip
    on_progress = progress or no_progress
    job = prepare(request, on_progress)
    from loraedit.editing import run_edit  # imports torch, so only after the request has been checked

    return run_edit(job, on_progress)
