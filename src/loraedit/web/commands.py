"""Turns a draft into command lines. Everything that the page knows about the commands is here.

Paths are relative to the user's folder, in which the commands run. Values follow their option after ``=``, so a text
cannot be mistaken for an option.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loraedit.settings import EditSettings, affects_plan
from loraedit.storage.files import fingerprint
from loraedit.web.drafts import Draft

__all__ = ["as_text", "child_command", "child_environment", "edit_commands", "mask_command", "mask_key", "plan_command"]

Command = list[str]
HIDDEN = ("--json", "--progress-json")
"""Options for programs; the command line that users see leaves them out."""
STORE = "--store=loras"
"""Each user has a store of LoRAs of his own."""


def mask_command(draft: Draft) -> Command | None:
    """Returns the command that makes the draft's mask; None if the draft has no clip or no hints."""
    hints = [f"--from-edit=images/{draft.edited}"] if draft.edited else []
    hints += [f"--reference={frame}=images/{image}" for frame, image in sorted(draft.references.items())]
    hints += [f"--point={frame}:{x},{y}{'' if on else ':out'}" for frame, x, y, on in draft.points]
    hints += [f"--box={frame}:{x0},{y0},{x1},{y1}" for frame, x0, y0, x1, y1 in draft.boxes]
    hints += [f"--seed-mask={frame}=images/{image}" for frame, image in sorted(draft.seeds.items())]
    if draft.clip is None or not hints:
        return None
    margin = [f"--margin={draft.margin:g}"] if draft.margin is not None else []
    request = ["mask", f"clips/{draft.clip}", *hints, *margin]
    return [*request, f"--out=masks/{fingerprint(request)}/mask", "--progress-json"]


def mask_key(draft: Draft) -> str | None:
    """Returns the name of the draft's mask: a hash of everything that it is made from."""
    if draft.kept_mask is not None:
        return draft.kept_mask
    command = mask_command(draft)
    return fingerprint(command[:-2]) if command else None


def edit_commands(draft: Draft, run: str) -> list[Command]:
    """Returns the command of the edit and the command that measures it.

    Args:
        draft: it has a clip, an edited frame and a mask.
        run: the name of the run's folder in ``runs/``.
    """
    edit = [
        "edit",
        *_shared(draft, draft.settings),
        f"--out=runs/{run}/edited.mp4",
        f"--run=runs/{run}/run",
        STORE,
        *HIDDEN,
    ]
    return [edit, ["evaluate", f"runs/{run}/run", "--json"]]


def plan_command(draft: Draft) -> Command | None:
    """Returns the command that plans the edit; None if the draft has no clip or no edited frame."""
    if None in (draft.clip, draft.edited):
        return None
    settings = {name: value for name, value in draft.settings.items() if affects_plan(name)}
    return ["plan", *_shared(draft, settings), "--json"]


def _shared(draft: Draft, settings: dict[str, Any]) -> Command:
    """Returns the arguments that ``edit`` and ``plan`` share."""
    references = [f"--reference={frame}=images/{image}" for frame, image in sorted(draft.references.items())]
    return [
        f"clips/{draft.clip}", f"--first-frame=images/{draft.edited}", f"--mask=masks/{mask_key(draft)}/mask",
        *references, *_settings(settings),
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
    """Returns the commands as a user would type them."""
    shown = [shlex.join(["loraedit", *(part for part in command if part not in HIDDEN)]) for command in commands]
    return "\n".join([f"cd {shlex.quote(str(folder))}", *shown]) + "\n"


def child_command(command: Command) -> Command:
    """Returns the command line of a child process; ``-P`` keeps the working folder off its import path."""
    return [sys.executable, "-P", "-m", "loraedit", *command]


def child_environment() -> dict[str, str]:
    """Returns this process's environment, with the import path made absolute: the child runs in another folder."""
    path = os.environ.get("PYTHONPATH")
    if not path:
        return dict(os.environ)
    whole = os.pathsep.join(str(Path(part).absolute()) for part in path.split(os.pathsep))
    return {**os.environ, "PYTHONPATH": whole}
