"""The workflow: from a checked job to the edited clip."""

from loraedit.editing.pipeline import run_edit
from loraedit.editing.result import EditFiles, EditResult

__all__ = ["EditFiles", "EditResult", "run_edit"]
