"""The state that the page shows, as JSON values: draft, mask, plan and runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from loraedit.settings import RECIPE_USES
from loraedit.web.commands import mask_key
from loraedit.web.drafts import Draft, offered_settings
from loraedit.web.jobs import Job
from loraedit.web.progress import error_of, progress_of
from loraedit.web.session import EXAMPLE, Session
from loraedit.web.user_jobs import mask_job, plan_job, previews, products, run_jobs

__all__ = ["session_state"]


def session_state(session: Session) -> dict[str, Any]:
    """Returns everything that the page shows."""
    draft, files = session.draft(), session.files
    return {
        "draft": draft.model_dump(mode="json"),
        "clip": asdict(files.facts(draft.clip)) if draft.clip else None,
        "whole": asdict(files.facts(draft.whole)) if draft.whole else None,
        "mask": _mask_state(session, draft),
        "models": session.models,
        "fields": offered_settings(),
        "recipes": dict(RECIPE_USES),
        "example": EXAMPLE.is_dir(),
        "plan": _plan_state(session, draft),
        "runs": [_run_state(session, job) for job in run_jobs(files)],
    }


def _mask_state(session: Session, draft: Draft) -> dict[str, Any] | None:
    """Returns the state of the draft's mask; None if it was not started."""
    key = mask_key(draft)
    job = mask_job(session.files, key) if key else None
    if job is None or not job.exists():
        return None
    state = job.state()
    error = error_of(job) if state == "failed" else ""
    return {"key": key, "state": state, "error": error, **progress_of(job), "kept": draft.kept_mask is not None}


def _plan_state(session: Session, draft: Draft) -> dict[str, Any] | None:
    """Returns the state of the draft's plan; None if the draft is incomplete."""
    job = plan_job(session.files, draft)
    if job is None:
        return None
    if not job.exists():
        return {"state": "not started"}
    state = job.state()
    return {"state": state, "error": error_of(job) if state == "failed" else "", "found": job.printed(0)}


def _run_state(session: Session, job: Job) -> dict[str, Any]:
    record, state, summary = job.record(), job.state(), job.printed(0)
    finished = summary is not None and job.codes()[:1] == [0]
    shown: dict[str, Any] = {
        "id": job.name, "state": state, "name": record["name"], "created": record["created"],
        "clip": record["draft"]["clip"], "mask": mask_key(Draft.model_validate(record["draft"])),
        "prompt": record["draft"]["settings"].get("prompt", ""), "finished": finished,
    }  # fmt: skip
    if state == "waiting":
        shown["ahead"] = session.queues.runs.ahead_of(job)
    if state == "failed":
        shown["error"] = error_of(job)
    if state not in ("done", "waiting"):
        pages = previews(job)
        shown |= {**progress_of(job), "preview": pages[-1].stem if pages else None}
    if finished and summary is not None:
        shown |= _result_state(job, summary)
        shown["clip_facts"] = asdict(session.files.facts(record["draft"]["clip"]))
    return shown


def _result_state(job: Job, summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "reused": summary["reused"], "saved": summary["saved"], "notes": summary["notes"],
        "exact": summary["outside_exact"], "seconds": summary["wall_seconds"], "products": sorted(products(job)),
        "measures": _measures(job),
    }  # fmt: skip


def _measures(job: Job) -> list[list[str]]:
    """Returns label, value and meaning of each metric."""
    from loraedit.evaluate.run import MEASURES

    metrics = (job.printed(1) or {}).get("metrics", {})
    return [
        [MEASURES[name].label, MEASURES[name].form.format(value), MEASURES[name].meaning]
        for name, value in metrics.items()
    ]
