"""Evaluates finished edits: metrics that need no true edit, and a report page.

:mod:`loraedit.evaluate.metrics` has the metrics as pure functions. :func:`evaluate_run` applies them to a run folder.
"""

from loraedit.evaluate.run import Evaluation, evaluate_run

__all__ = ["Evaluation", "evaluate_run"]
