"""How good an edit is: metrics, and a report page of a finished run.

``metrics`` holds the measures as pure functions, for benchmarks where the true edit is known too. ``evaluate_run``
measures a run folder, where it is not.
"""

from loraedit.evaluate.run import Evaluation, evaluate_run

__all__ = ["Evaluation", "evaluate_run"]
