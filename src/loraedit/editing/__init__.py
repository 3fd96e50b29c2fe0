"""The workflow: from a checked job to the edited clip."""

from loraedit.editing.pipeline import run_edit
from loraedit.editing.run import EditResult, Progress

__all__ = ["EditResult", "Progress", "run_edit"]
