"""The session of one user: what the buttons of the page do."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loraedit.errors import InputError
from loraedit.storage.files import write_text
from loraedit.web.commands import as_text, edit_commands, mask_command, mask_key, plan_command
from loraedit.web.drafts import Draft, load_draft, parse_draft, save_draft
from loraedit.web.jobs import Job
from loraedit.web.queue import Queues
from loraedit.web.user_files import UserFiles
from loraedit.web.user_jobs import mask_job, plan_job, run_job

__all__ = ["EXAMPLE", "Session"]

EXAMPLE = Path(__file__).parents[3] / "examples/pedestrian"
"""Part of a source checkout; an installed package has none."""
EXAMPLE_PROMPT = "a person in an orange striped coat and a yellow hat over a grey background"
EXAMPLE_SOURCE_PROMPT = "a person in a black coat over a grey background"


class Session:
    """What one user does on the page. Everything is kept in files, so it survives the page and the server.

    Args:
        files: the user's files.
        models: the models that the page offers.
        queues: where jobs are submitted.
    """

    def __init__(self, files: UserFiles, models: Sequence[str], queues: Queues) -> None:
        self.files, self.models, self.queues = files, list(models), queues

    # ---- the draft -----------------------------------------------------------------------------------------------

    def draft(self) -> Draft:
        """Returns the present draft."""
        return load_draft(self.files, self.models)

    def set_draft(self, value: dict[str, Any]) -> None:
        """Takes the draft that the page sends, and starts its mask.

        Raises:
            InputError: the draft is not valid.
        """
        self._use(parse_draft(value, self.files, self.models))

    def _use(self, draft: Draft) -> None:
        """Saves a draft, stops the mask that it no longer needs, and starts the mask that it needs."""
        before, key = mask_key(self.draft()), mask_key(draft)
        save_draft(self.files, draft)
        if before is not None and before != key:
            _stop_if_active(mask_job(self.files, before))
        command = mask_command(draft)
        if key is not None and command is not None and draft.kept_mask is None:
            job = Job.make(mask_job(self.files, key).folder, [command], created=time.time())
            if job.state() == "stopped":
                job.resume()
            self.queues.masks.submit(job)

    def retry_mask(self) -> None:
        """Starts a failed mask again."""
        key = mask_key(self.draft())
        if key is not None and mask_job(self.files, key).exists():
            job = mask_job(self.files, key)
            job.resume()
            self.queues.masks.submit(job)

    def plan(self) -> None:
        """Starts the plan of the draft's edit.

        Raises:
            InputError: the draft is incomplete.
        """
        draft = self.draft()
        job, command = plan_job(self.files, draft), plan_command(draft)
        if job is None or command is None:
            raise InputError("An edit needs a clip and an edited first frame. Add them first.")
        self.queues.plans.submit(Job.make(job.folder, [command], created=time.time()))

    def take_example(self) -> None:
        """Starts a draft with the example of the source checkout.

        Raises:
            InputError: there is no example.
        """
        if not EXAMPLE.is_dir():
            raise InputError("The example is not installed. It comes with the source code.")
        source, edited = self.files.copy_in(EXAMPLE / "source.mkv"), EXAMPLE / "first_frame_edited.png"
        clip = self.files.keep_clip(source, _digest(source))
        image = self.files.keep_image(self.files.copy_in(edited), _digest(edited))
        settings = {"prompt": EXAMPLE_PROMPT, "source_prompt": EXAMPLE_SOURCE_PROMPT}
        self._use(Draft(clip=clip, whole=clip, name="pedestrian", edited=image, settings=settings))

    def trim(self, first: int, end: int) -> None:
        """Starts a new draft with the frames from ``first`` up to ``end``, exclusive; the settings stay.

        Raises:
            InputError: there is no clip, or it has no such frames.
        """
        draft = self.draft()
        if draft.whole is None:
            raise InputError("There is no clip to trim. Add one first.")
        clip = self.files.cut(draft.whole, first, end)
        if clip != draft.clip:
            self._use(Draft(clip=clip, whole=draft.whole, name=draft.name, settings=draft.settings))

    # ---- runs ----------------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Queues a run of the draft; returns its name.

        Raises:
            InputError: the draft is incomplete, or its mask is not ready.
        """
        draft = self.draft()
        key = mask_key(draft)
        if draft.clip is None or draft.edited is None or key is None:
            raise InputError("An edit needs a clip and an edited first frame. Add them first.")
        if mask_job(self.files, key).state() != "done":
            raise InputError("The mask is not ready. Wait for it, or correct it.")
        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        about = {"created": time.time(), "name": draft.name, "draft": draft.model_dump(mode="json")}
        job = Job.make(self.files.folder / "runs" / run, edit_commands(draft, run), **about)
        commands = [*mask_job(self.files, key).commands(), *job.commands()]
        write_text(job.folder / "command.txt", as_text(commands, self.files.folder))
        self.queues.runs.submit(job)
        return run

    def act(self, run: str, action: str) -> None:
        """Does what a button of a run says.

        Args:
            run: the name of the run.
            action: ``stop``, ``resume``, ``remove``, ``reopen`` (its draft becomes the present one), or ``again``
                (a new draft with its clip and mask).

        Raises:
            InputError: there is no such run, or its state does not allow the action.
        """
        job = run_job(self.files, run)
        draft = Draft.model_validate(job.record()["draft"])
        if action == "stop":
            job.stop()
        elif action == "resume" and job.state() in ("stopped", "failed"):
            job.resume()
            self.queues.runs.submit(job)
        elif action == "remove" and not job.is_held():
            job.remove()
        elif action == "reopen":
            self._use(draft)
        elif action == "again":
            kept = {"clip": draft.clip, "whole": draft.whole, "name": draft.name, "kept_mask": mask_key(draft)}
            self._use(Draft.model_validate({**kept, "settings": draft.settings}))
        else:
            raise InputError("The run does not allow this at the moment. Wait and try again.")


def _stop_if_active(job: Job) -> None:
    if job.exists() and job.state() in ("waiting", "running"):
        job.stop()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
