"""Checks the places that an edit writes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loraedit.errors import InputError
from loraedit.job.request import EditRequest
from loraedit.runs.folder import CLIP_FOLDERS, EDITED_FIRST_FILE
from loraedit.storage.files import real
from loraedit.storage.paths import check_apart
from loraedit.video import check_writable

__all__ = ["check_places"]


def check_places(request: EditRequest, loras: Sequence[Path]) -> Path | None:
    """Checks that output and run folder can be written and would overwrite no input.

    Args:
        loras: files that are read besides those of the request.

    Returns:
        The run folder, or None for a temporary one.

    Raises:
        InputError: they cannot, or would.
    """
    out, run = request.out, _run_folder(request)
    written = [*([out] if out else []), *(run / name for name in CLIP_FOLDERS if run)]
    given = (request.source, *request.images(), *request.masks(), *loras)
    for read in (Path(each) for each in given if isinstance(each, str | Path)):
        for path in written:
            check_apart(read, path, exactly=False)
        if run is not None:
            check_apart(read, run / EDITED_FIRST_FILE, exactly=False)
            if read.is_dir():
                check_apart(read, run, exactly=True)
    for path in written:
        check_writable(path, request.settings.codec if path == out else None)
    return run


def _run_folder(request: EditRequest) -> Path | None:
    out, run = request.out, request.run
    if out is not None and not out.name:
        raise InputError("The output has no name. Give --out a file or folder, such as result.mp4.")
    if out is not None and run is None:
        run = out.with_name(f"{out.stem}-run")
    if run is None:
        return None
    if not run.name:
        raise InputError("The run folder has no name. Give --run a folder of its own.")
    if run.exists() and not run.is_dir():
        raise InputError(f"The run folder '{run}' is a file. Give --run a folder.")
    if out is not None and real(run).is_relative_to(real(out)):
        raise InputError(f"The run folder '{run}' lies in the output '{out}'. Give them different places.")
    return run
