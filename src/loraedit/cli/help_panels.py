"""Help texts with options in panels: plain text that fits 80 columns and can be piped."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from loraedit.settings.about import PANELS as SETTING_PANELS

__all__ = ["INPUTS", "MOST_USED", "MOST_USED_OPTIONS", "OUTPUT", "PanelCommand"]

MOST_USED, INPUTS, OUTPUT = "Most used", "Inputs", "Output"
PANELS = (MOST_USED, *SETTING_PANELS)
"""The panels of ``edit`` and ``plan`` in their order; other panels follow in the order of their options."""

MOST_USED_OPTIONS = (
    "first_frame", "mask", "reference", "prompt", "source_prompt", "model", "recipe", "out", "run", "seed",
)  # fmt: skip

OPTION_COLUMNS = 26
"""The widest option with its help text on the same line."""

OTHER = "Other options"


class PanelCommand(TyperCommand):
    """A command whose help lists the options by their ``rich_help_panel``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the arguments, and then the options of each panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in sorted(self.get_params(ctx), key=_rank):
            row = parameter.get_help_record(ctx)
            if row is not None:
                panels.setdefault(_panel(parameter), []).append(row)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows, OPTION_COLUMNS)


def _panel(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return getattr(parameter, "rich_help_panel", None) or OTHER


def _rank(parameter: Any) -> tuple[int, int]:
    """Returns the place of a parameter: arguments first, then panel by panel, the rest last."""
    if parameter.param_type_name == "argument":
        return -1, 0
    panel = _panel(parameter)
    if panel == MOST_USED:
        return 0, MOST_USED_OPTIONS.index(parameter.name)
    if panel in PANELS:
        return PANELS.index(panel), 0
    return len(PANELS) + (panel == OTHER), 0
