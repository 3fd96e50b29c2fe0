"""The jobs of a user: masks, plans and runs, each in a folder of its own."""

from __future__ import annotations

import re
from pathlib import Path

from loraedit.errors import InputError
from loraedit.storage.files import fingerprint
from loraedit.web.commands import plan_command
from loraedit.web.drafts import Draft
from loraedit.web.jobs import Job
from loraedit.web.user_files import UserFiles

__all__ = ["mask_job", "plan_job", "previews", "products", "run_job", "run_jobs"]

RUN_ID = r"\d{8}-\d{6}-[0-9a-f]{4}"


def mask_job(files: UserFiles, key: str) -> Job:
    """Returns the job of a mask; it need not exist."""
    return Job(files.folder / "masks" / key)


def plan_job(files: UserFiles, draft: Draft) -> Job | None:
    """Returns the job of the draft's plan, which need not exist; None if the draft is incomplete."""
    command = plan_command(draft)
    return Job(files.folder / "plans" / fingerprint(command)) if command else None


def run_job(files: UserFiles, name: object) -> Job:
    """Returns a run.

    Raises:
        InputError: the user has no such run.
    """
    job = Job(files.folder / "runs" / str(name))
    if not isinstance(name, str) or re.fullmatch(RUN_ID, name, re.ASCII) is None or not job.exists():
        raise InputError("There is no such run.")
    return job


def run_jobs(files: UserFiles) -> list[Job]:
    """Returns all runs, the latest first."""
    found = (Job(path.parent) for path in files.folder.glob("runs/*/job.json"))
    return sorted(found, key=lambda job: job.name, reverse=True)


def products(job: Job) -> dict[str, Path]:
    """Returns the files of a run that can be viewed or downloaded, by the names that the page uses."""
    summary, run = job.printed(0) or {}, job.folder / "run"
    loras = [path for files in summary.get("loras", ()) for path in files.values()]
    paths = {
        "video": job.folder / "edited.mp4", "frames": run / "frames", "mask": run / "mask",
        "sheet": run / "sheet.png", "side_by_side": run / "side_by_side.mp4", "loss": run / "loss.png",
        "report": run / "report.html", "settings": run / "settings.json", "command": job.folder / "command.txt",
        **{f"lora_{number}" if number else "lora": job.home / path for number, path in enumerate(loras)},
    }  # fmt: skip
    if pages := previews(job):
        paths["preview"] = pages[-1]
    return {name: path for name, path in paths.items() if path.exists()}


def previews(job: Job) -> list[Path]:
    """Returns the previews of a run, the latest last."""
    return sorted((job.folder / "run/preview").glob("[!.]*.png"), key=lambda path: path.stat().st_mtime_ns)
