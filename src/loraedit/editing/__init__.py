"""The workflow: from a checked job to the edited clip."""

from loraedit.editing.run import EditResult, Progress
from loraedit.editing.workflow import run_edit

__all__ = ["EditResult", "Progress", "run_edit"]
