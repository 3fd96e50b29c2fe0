"""From a draft to the command lines that carry it out. All that the page knows of the workflows is here.

Paths are relative to the person's folder, in which the commands run. A value always follows its option's name after
``=``, so that no text can be taken for an option.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loraedit.settings import EditSettings
from loraedit.storage.files import fingerprint
from loraedit.web.drafts import Draft

__all__ = ["as_text", "child_command", "child_environment", "edit_commands", "mask_command", "mask_key", "plan_command"]

Command = list[str]
UNSEEN = ("--json", "--progress-json")
"""Options for programs, left out of what people are shown."""
STORE = "--store=loras"
"""What one person's clips have taught is kept beside them, for that person's runs alone."""


def mask_command(draft: Draft) -> Command | None:
    """What makes the draft's mask; None if nothing says yet where it is to be."""
    hints = [f"--from-edit=images/{draft.edited}"] if draft.edited else []
    hints += [f"--reference={frame}=images/{image}" for frame, image in sorted(draft.references.items())]
    hints += [f"--point={frame}:{x},{y}{'' if on else ':out'}" for frame, x, y, on in draft.points]
    hints += [f"--box={frame}:{x0},{y0},{x1},{y1}" for frame, x0, y0, x1, y1 in draft.boxes]
    hints += [f"--seed-mask={frame}=images/{image}" for frame, image in sorted(draft.seeds.items())]
    if draft.clip is None or not hints:
        return None
    margin = [f"--margin={draft.margin:g}"] if draft.margin is not None else []
    unnamed = ["mask", f"clips/{draft.clip}", *hints, *margin]
    return [*unnamed, f"--out=masks/{fingerprint(unnamed)}/mask", "--progress-json"]


def mask_key(draft: Draft) -> str | None:
    """The name of the draft's mask, told by all that it is made from."""
    if draft.kept_mask is not None:
        return draft.kept_mask
    command = mask_command(draft)
    return fingerprint(command[:-2]) if command else None


def edit_commands(draft: Draft, run: str) -> list[Command]:
    """What makes the edit, and what measures it; the draft has a clip, an edited frame and a mask.

    Args:
        run: the name of the run's folder in ``runs/``.
    """
    edit = ["edit", *_asked(draft), f"--out=runs/{run}/edited.mp4", f"--run=runs/{run}/run", STORE, *UNSEEN]
    return [edit, ["evaluate", f"runs/{run}/run", "--json"]]


def plan_command(draft: Draft) -> Command | None:
    """What says beforehand what the edit takes; None if it cannot be said yet, or this loraedit plans nothing."""
    if importlib.util.find_spec("loraedit.planning") is None or None in (draft.clip, draft.edited):
        return None
    return ["plan", *_asked(draft), "--json"]


def _asked(draft: Draft) -> Command:
    """The arguments that ``edit`` and ``plan`` share."""
    references = [f"--reference={frame}=images/{image}" for frame, image in sorted(draft.references.items())]
    return [
        f"clips/{draft.clip}", f"--first-frame=images/{draft.edited}", f"--mask=masks/{mask_key(draft)}/mask",
        *references, *_settings(draft.settings),
    ]  # fmt: skip


def _settings(settings: dict[str, Any]) -> Iterator[str]:
    for name, value in sorted(settings.items()):
        option = name.replace("_", "-")
        if value is None or value == EditSettings.model_fields[name].default:
            continue
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        else:
            yield f"--{option}={value}"


def as_text(commands: Sequence[Command], folder: Path) -> str:
    """Commands as a person would type them."""
    shown = [shlex.join(["loraedit", *(part for part in command if part not in UNSEEN)]) for command in commands]
    return "\n".join([f"cd {shlex.quote(str(folder))}", *shown]) + "\n"


def child_command(command: Command) -> Command:
    """The same command line in a process of its own; ``-P`` keeps the working folder off the import path."""
    return [sys.executable, "-P", "-m", "loraedit", *command]


def child_environment() -> dict[str, str]:
    """Ours; the import path, should it be relative, still leads to the same place from another folder."""
    path = os.environ.get("PYTHONPATH")
    if not path:
        return dict(os.environ)
    whole = os.pathsep.join(str(Path(part).absolute()) for part in path.split(os.pathsep))
    return {**os.environ, "PYTHONPATH": whole}
