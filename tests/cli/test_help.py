"""Help is readable at 80 columns and in a pipe, and lists each option where users look for it."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from loraedit.cli.help_panels import MOST_USED_OPTIONS
from loraedit.cli.main import app
from loraedit.settings import PANELS, EditSettings, affects_plan

COMMANDS = ["edit", "mask", "plan", "evaluate", "repeat", "batch", "web", "models", "store", "doctor", "lora"]


def help_of(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.output


def options_of(text: str) -> list[str]:
    return re.findall(r"^  --([a-z0-9-]+)", text, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_has_no_control_codes(command: str) -> None:
    text = help_of(command)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text


def test_each_command_has_a_summary_that_is_not_cut() -> None:
    assert "..." not in help_of().partition("Commands:")[2]


def test_edit_lists_the_most_used_options_first_and_then_the_panels() -> None:
    text = help_of("edit")
    assert re.findall(r"^([A-Z][a-z ]+):", text.partition("Arguments:")[2], re.MULTILINE) == [
        "Most used", *PANELS, "Other options",
    ]  # fmt: skip
    assert options_of(text)[: len(MOST_USED_OPTIONS)] == [name.replace("_", "-") for name in MOST_USED_OPTIONS]


def test_plan_has_exactly_the_settings_that_change_a_plan() -> None:
    shown = {name.replace("-", "_") for name in options_of(help_of("plan"))}
    assert shown & set(EditSettings.model_fields) == {name for name in EditSettings.model_fields if affects_plan(name)}
