"""Claims about settings."""

from __future__ import annotations

from typing import Any

import pytest

from loraedit.errors import InputError
from loraedit.settings.edit import EditSettings, Recipe, make_settings

RECIPE = Recipe(steps=7, rank=3, lr=0.5, looks=2, time_low=0.25, sampling_steps=9, guidance=2.0)


def test_what_the_user_leaves_open_comes_from_the_models_recipe() -> None:
    resolved = make_settings({"rank": 5, "guidance": 0.0}).resolved(RECIPE)
    assert (resolved.steps, resolved.rank, resolved.guidance, resolved.time_low) == (7, 5, 0.0, 0.25)


def test_the_papers_recipe_takes_its_method_and_the_models_pace() -> None:
    own = RECIPE.model_copy(update={"fill": "carry", "prior": True, "edit_weight": 4.0, "detail": True})
    resolved = make_settings({"recipe": "paper", "looks": 5}).resolved(own)
    assert (resolved.fill, resolved.prior, resolved.edit_weight, resolved.detail) == ("grey", False, 1.0, False)
    assert (resolved.steps, resolved.rank, resolved.lr, resolved.looks) == (7, 3, 0.5, 5)


def test_a_start_from_what_is_shown_needs_something_to_be_shown() -> None:
    own = RECIPE.model_copy(update={"fill": "carry", "strength": 0.7})
    asked = ({}, {"lora": "naive"}, {"lora": "none"}, {"fill": "grey"}, {"fill": "grey", "strength": 0.5})
    assert [make_settings(values).resolved(own).strength for values in asked] == [0.7, 1.0, 1.0, 1.0, 0.5]


def test_the_sampling_settings_do_not_decide_the_lora() -> None:
    first = make_settings({}).resolved(RECIPE).training()
    assert make_settings({"seed": 4, "prompt": "x", "sampling_steps": 3}).resolved(RECIPE).training() == first
    assert make_settings({"train_seed": 4}).resolved(RECIPE).training() != first


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stepz": 3}, "no setting 'stepz'"),
        ({"steps": -1}, "'steps'"),
        ({"rank": 10**9}, "'rank'"),
        ({"lr": float("nan")}, "'lr'"),
        ({"lr": -1}, "'lr'"),
        ({"guidance": float("inf")}, "'guidance'"),
        ({"seed": -1}, "'seed'"),
        ({"time_low": 1.0}, "'time-low'"),
        ({"lora": "magic"}, "'lora'"),
        ({"looks": "many"}, "'looks'"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make_settings(values)
    assert "\n" not in str(caught.value)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        EditSettings().steps = 3  # type: ignore[misc]
