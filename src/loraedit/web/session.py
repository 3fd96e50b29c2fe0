"""The desk of one person: what the page shows, and what its buttons do."""

from __future__ import annotations

import functools
import io
import re
import secrets
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from loraedit.errors import InputError
from loraedit.storage.files import fingerprint, write_text
from loraedit.web.commands import as_text, edit_commands, mask_command, mask_key, plan_command
from loraedit.web.drafts import MASK_KEY, Draft, load_draft, offered_settings, parse_draft, save_draft
from loraedit.web.jobs import Job
from loraedit.web.progress import progress_of, sentence_of
from loraedit.web.queue import Lane
from loraedit.web.store import Store, png_bytes, write_view

__all__ = ["Desk", "Office"]

RUN_ID = r"\d{8}-\d{6}-[0-9a-f]{4}"
EXAMPLE = Path(__file__).parents[3] / "examples/pedestrian"
EXAMPLE_PROMPT = "a person in an orange striped coat and a yellow hat over a grey background"
EXAMPLE_SOURCE_PROMPT = "a person in a black coat over a grey background"
OVERLAY = (255, 120, 0, 110)
FRAME_FILE = "{:05d}.png"


class Office:
    """All desks, and the lanes that work for them."""

    def __init__(self, root: Path, models: list[str]) -> None:
        self.root = root
        self.models = [str(Path(model).absolute()) if Path(model).is_dir() else model for model in models]
        root.mkdir(parents=True, exist_ok=True)

    def open(self) -> None:
        """Begin to work, first of all on what an earlier server left."""
        self.masks, self.plans, self.runs = (Lane(self.root, kind) for kind in ("masks", "plans", "runs"))
        for lane in (self.masks, self.plans, self.runs):
            lane.start()

    def close(self) -> None:
        """Stop what is under way; the next server continues it."""
        for lane in (self.masks, self.plans, self.runs):
            lane.close()

    @functools.lru_cache(maxsize=256)  # noqa: B019 (there is one office)
    def desk(self, person: str) -> Desk:
        """The desk of one person."""
        return Desk(self, Store(self.root / person))


class Desk:
    """One person's view; everything is kept in files, so that it survives the page and the server."""

    def __init__(self, office: Office, store: Store) -> None:
        self.office, self.store = office, store

    # ---- what the page shows -------------------------------------------------------------------------------------

    def draft(self) -> Draft:
        """What this person has laid out."""
        return load_draft(self.store, self.office.models)

    def state(self) -> dict[str, Any]:
        """All that the page shows, as JSON values."""
        draft = self.draft()
        return {
            "draft": draft.model_dump(mode="json"),
            "clip": asdict(self.store.facts(draft.clip)) if draft.clip else None,
            "whole": asdict(self.store.facts(draft.whole)) if draft.whole else None,
            "mask": self._mask_state(draft),
            "models": self.office.models,
            "fields": offered_settings(),
            "example": EXAMPLE.is_dir(),
            "plan": self._plan_state(draft),
            "runs": [self._run_state(job) for job in self._runs()],
        }

    def _mask_state(self, draft: Draft) -> dict[str, Any] | None:
        key = mask_key(draft)
        job = self._mask_job(key) if key else None
        if job is None or not job.exists():
            return None
        state = job.state()
        error = sentence_of(job) if state == "failed" else ""
        return {"key": key, "state": state, "error": error, **progress_of(job), "kept": draft.kept_mask is not None}

    def _plan_state(self, draft: Draft) -> dict[str, Any] | None:
        """What the edit would take, as far as it is known; None if this loraedit plans nothing."""
        job = self._plan_job(draft)
        if job is None:
            return None
        if not job.exists():
            return {"state": "unasked"}
        state = job.state()
        return {"state": state, "error": sentence_of(job) if state == "failed" else "", "found": job.printed(0)}

    def _run_state(self, job: Job) -> dict[str, Any]:
        record, state, made = job.record(), job.state(), job.printed(0)
        finished = made is not None and job.codes()[:1] == [0]
        shown: dict[str, Any] = {
            "id": job.name, "state": state, "name": record["name"], "created": record["created"],
            "clip": record["draft"]["clip"], "mask": mask_key(Draft.model_validate(record["draft"])),
            "prompt": record["draft"]["settings"].get("prompt", ""), "finished": finished,
        }  # fmt: skip
        if state == "waiting":
            shown["ahead"] = self.office.runs.ahead_of(job)
        if state == "failed":
            shown["error"] = sentence_of(job)
        if state not in ("done", "waiting"):
            shown |= progress_of(job)
            looks = _looks(job)
            shown["preview"] = looks[-1].stem if looks else None
        if finished and made is not None:
            shown["reused"], shown["saved"] = made["reused"], made.get("saved", {"train_steps": 0, "seconds": 0.0})
            shown["notes"], shown["exact"] = made["notes"], made["outside_exact"]
            shown["seconds"], shown["products"] = made["wall_seconds"], sorted(self._products(job))
            shown["clip_facts"] = asdict(self.store.facts(record["draft"]["clip"]))
            shown["measures"] = self._measures(job)
        return shown

    def _measures(self, job: Job) -> list[list[str]]:
        """Label, value and meaning of what was measured."""
        from loraedit.evaluate.run import MEASURES

        measured = (job.printed(1) or {}).get("metrics", {})
        return [
            [MEASURES[name].label, MEASURES[name].form.format(value), MEASURES[name].meaning]
            for name, value in measured.items()
        ]

    # ---- the draft -----------------------------------------------------------------------------------------------

    def set_draft(self, value: dict[str, Any]) -> None:
        """Lay out what the page sends, and make the mask that it asks for.

        Raises:
            InputError: the page sent what cannot be used.
        """
        self._lay_out(parse_draft(value, self.store, self.office.models))

    def _lay_out(self, draft: Draft) -> None:
        before, key = mask_key(self.draft()), mask_key(draft)
        save_draft(self.store, draft)
        if before is not None and before != key:
            self._drop_mask(self._mask_job(before))
        command = mask_command(draft)
        if key is not None and command is not None and draft.kept_mask is None:
            job = Job.make(self._mask_job(key).folder, [command], created=time.time())
            if job.state() == "stopped":
                job.resume()
            self.office.masks.submit(job)

    def retry_mask(self) -> None:
        """Make a mask again that has failed."""
        key = mask_key(self.draft())
        if key is not None and self._mask_job(key).exists():
            job = self._mask_job(key)
            job.resume()
            self.office.masks.submit(job)

    def plan(self) -> None:
        """Find out what the edit that is laid out would take.

        Raises:
            InputError: something is missing.
        """
        draft = self.draft()
        job, command = self._plan_job(draft), plan_command(draft)
        if job is None or command is None:
            raise InputError("An edit needs a clip and an edited first frame. Drop them first.")
        self.office.plans.submit(Job.make(job.folder, [command], created=time.time()))

    def take_example(self) -> None:
        """Lay out the example that comes with the source.

        Raises:
            InputError: it is not there.
        """
        if not EXAMPLE.is_dir():
            raise InputError("The example is not installed. It comes with the source code.")
        source, edited = self.store.copy_in(EXAMPLE / "source.mkv"), EXAMPLE / "first_frame_edited.png"
        clip = self.store.keep_clip(source, _digest(source))
        image = self.store.keep_image(self.store.copy_in(edited), _digest(edited))
        settings = {"prompt": EXAMPLE_PROMPT, "source_prompt": EXAMPLE_SOURCE_PROMPT}
        self._lay_out(Draft(clip=clip, whole=clip, name="pedestrian", edited=image, settings=settings))

    def trim(self, first: int, end: int) -> None:
        """Go on with a part of the clip; what was laid out for another part is put away.

        Raises:
            InputError: there is no such part.
        """
        draft = self.draft()
        if draft.whole is None:
            raise InputError("There is no clip to trim. Drop one first.")
        clip = self.store.cut(draft.whole, first, end)
        if clip != draft.clip:
            self._lay_out(Draft(clip=clip, whole=draft.whole, name=draft.name, settings=draft.settings))

    # ---- runs ----------------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Queue the edit that is laid out; its run.

        Raises:
            InputError: something is missing.
        """
        draft = self.draft()
        key = mask_key(draft)
        if draft.clip is None or draft.edited is None or key is None:
            raise InputError("An edit needs a clip and an edited first frame. Drop them first.")
        if self._mask_job(key).state() != "done":
            raise InputError("The mask is not ready. Wait for it, or mend it.")
        run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        folder = self.store.folder / "runs" / run
        about = {"created": time.time(), "name": draft.name, "draft": draft.model_dump(mode="json")}
        job = Job.make(folder, edit_commands(draft, run), **about)
        write_text(folder / "command.txt", self._command_text(draft, job))
        self.office.runs.submit(job)
        return run

    def act(self, run: str, action: str) -> None:
        """Stop a run, resume it, remove it, lay its draft out again, or start another edit of its clip.

        Raises:
            InputError: there is no such run, or it cannot be done now.
        """
        job = self._run(run)
        draft = Draft.model_validate(job.record()["draft"])
        if action == "stop":
            job.stop()
        elif action == "resume" and job.state() in ("stopped", "failed"):
            job.resume()
            self.office.runs.submit(job)
        elif action == "remove" and not job.is_held():
            job.remove()
        elif action == "reopen":
            self._lay_out(draft)
        elif action == "again":
            kept = {"clip": draft.clip, "whole": draft.whole, "name": draft.name, "kept_mask": mask_key(draft)}
            self._lay_out(Draft.model_validate({**kept, "settings": draft.settings}))
        else:
            raise InputError("That cannot be done with this run now. Wait a moment.")

    def _runs(self) -> list[Job]:
        """All runs, the latest first."""
        found = (Job(path.parent) for path in self.store.folder.glob("runs/*/job.json"))
        return sorted(found, key=lambda job: job.name, reverse=True)

    def _run(self, name: object) -> Job:
        job = Job(self.store.folder / "runs" / str(name))
        if not isinstance(name, str) or re.fullmatch(RUN_ID, name, re.ASCII) is None or not job.exists():
            raise InputError("There is no such run.")
        return job

    def _mask_job(self, key: str) -> Job:
        return Job(self.store.folder / "masks" / key)

    def _plan_job(self, draft: Draft) -> Job | None:
        command = plan_command(draft)
        return Job(self.store.folder / "plans" / fingerprint(command)) if command else None

    def _drop_mask(self, job: Job) -> None:
        """Nobody waits for this one any more."""
        if job.exists() and job.state() in ("waiting", "running"):
            job.stop()

    def _command_text(self, draft: Draft, job: Job) -> str:
        """The exact command lines, the mask's own before the edit's."""
        key = mask_key(draft)
        made = self._mask_job(key).commands() if key else []
        return as_text([*made, *job.commands()], self.store.folder)

    # ---- pictures and products -----------------------------------------------------------------------------------

    def picture(self, kind: str, name: str, index: int) -> Path | bytes:
        """A file, or a PNG, of one frame.

        Raises:
            InputError: there is no such picture.
        """
        if kind == "view":
            return self.store.view(name, index)
        if kind == "frame":
            return png_bytes(self.store.frame(name, index))
        if kind == "mask" and re.fullmatch(MASK_KEY, name, re.ASCII):
            return _overlay(_existing(self._mask_job(name).folder / "mask" / FRAME_FILE.format(index)))
        if kind == "result":
            folder = self._run(name).folder
            view = folder / f"views/{index:06d}.jpg"
            if not view.exists():
                view.parent.mkdir(exist_ok=True)
                with PilImage.open(_existing(folder / "run/frames" / FRAME_FILE.format(index))) as image:
                    write_view(view, np.asarray(image.convert("RGB")))
            return view
        raise InputError("There is no such picture.")

    def product(self, run: str, name: str) -> Path:
        """What a run has made, by the name that the page has for it.

        Raises:
            InputError: there is no such thing.
        """
        job = self._run(run)
        path = self._products(job).get(name)
        if path is None:
            raise InputError("There is no such file.")
        if path.is_dir():
            return _zipped(path, job.folder / f"{name}.zip")
        return path

    def _products(self, job: Job) -> dict[str, Path]:
        """All that can be looked at or downloaded."""
        loras = [path for files in (job.printed(0) or {}).get("loras", ()) for path in files.values()]
        run = job.folder / "run"
        things = {
            "video": job.folder / "edited.mp4", "frames": run / "frames", "mask": run / "mask",
            "sheet": run / "sheet.png", "side_by_side": run / "side_by_side.mp4", "loss": run / "loss.png",
            "report": run / "report.html", "settings": run / "settings.json", "command": job.folder / "command.txt",
            **{f"lora_{number}" if number else "lora": job.home / path for number, path in enumerate(loras)},
        }  # fmt: skip
        if looks := _looks(job):
            things["preview"] = looks[-1]
        return {name: path for name, path in things.items() if path.exists()}


def _looks(job: Job) -> list[Path]:
    """Previews, the newest last."""
    return sorted((job.folder / "run/preview").glob("[!.]*.png"), key=lambda path: path.stat().st_mtime_ns)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError("There is no such picture.")
    return path


def _overlay(path: Path) -> bytes:
    """A mask as a tint to lay over its frame, as PNG."""
    with PilImage.open(path) as image:
        mask = np.asarray(image.convert("L")) > 127
    tint = np.zeros((*mask.shape, 4), np.uint8)
    tint[mask] = OVERLAY
    buffer = io.BytesIO()
    PilImage.fromarray(tint).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _zipped(folder: Path, target: Path) -> Path:
    """A folder's files in one; its pictures are compressed already."""
    if not target.exists():
        partial = target.with_suffix(f".{secrets.token_hex(4)}")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
        partial.replace(target)
    return target


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
