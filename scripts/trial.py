"""For chaos: a small edit of a tiny random checkpoint, and the command line in forked processes.

The libraries are imported once, and each command runs in a fork of its own: it can be killed, and costs no start.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np

TESTS = Path(__file__).parents[1] / "tests"


def warm_up() -> None:
    """Import all that an edit needs, and keep to one thread: a fork copies no others."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, str(TESTS))
    for name in ("loraedit.app.cli", "loraedit.editing", "loraedit.families.wan", "tiny"):
        importlib.import_module(name)
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def write_inputs(folder: Path, frames: int) -> None:
    """``model/``, ``source.mkv``, ``mask.mkv``, ``edited.png`` and ``last.png`` in a folder."""
    import json

    from loraedit.types import Clip
    from loraedit.video import write_clip, write_image

    conftest, tiny = importlib.import_module("conftest"), importlib.import_module("tiny")
    scene = conftest.make_scene(frames)
    tiny.save_tiny_wan(folder / "model")
    (folder / "model/loraedit.json").write_text(json.dumps(conftest.CARD))
    write_clip(folder / "source.mkv", Clip(scene.source, Fraction(10)))
    white = np.repeat(scene.mask[..., None] * np.uint8(255), 3, -1)
    write_clip(folder / "mask.mkv", Clip(white, Fraction(10)))
    write_image(folder / "edited.png", scene.edited_first)
    write_image(folder / "last.png", scene.source[-1] // 2)


@dataclass(frozen=True)
class Child:
    """A command under way."""

    pid: int
    errors: BinaryIO
    """Its standard error."""

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        _, status = os.waitpid(self.pid, 0)
        self.errors.close()
        return os.waitstatus_to_exitcode(status)


def start(arguments: Sequence[str], folder: Path) -> Child:
    """``loraedit ARGUMENTS`` in a fork, in a folder."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_command_line(arguments, folder, writer)
    os.close(writer)
    return Child(pid, os.fdopen(reader, "rb"))


def _be_command_line(arguments: Sequence[str], folder: Path, errors: int) -> None:
    from loraedit.app.cli import main

    code = 1
    try:
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.chdir(folder)
        sys.argv = ["loraedit", *arguments]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
