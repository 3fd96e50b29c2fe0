"""Claims about settings."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from loraedit.errors import InputError
from loraedit.settings import (
    DEFAULT_MARGIN,
    PANELS,
    PAPER,
    Course,
    EditSettings,
    Recipe,
    ResolvedSettings,
    SamplingSettings,
    TrainSettings,
    affects_plan,
    affects_training,
    fields_in_panel,
    from_recipe,
    is_path,
    make_settings,
    named_recipe,
    no_shaping,
    shapes_mask,
)

RECIPE = Recipe(steps=7, rank=3, lr=0.5, colour_variants=2, min_noise_level=0.25, sampling_steps=9, guidance=2.0)


def test_what_the_user_leaves_open_comes_from_the_models_recipe() -> None:
    resolved = make_settings({"rank": 5, "guidance": 0.0}).resolved(RECIPE)
    assert (resolved.steps, resolved.rank, resolved.guidance, resolved.min_noise_level) == (7, 5, 0.0, 0.25)


def test_the_papers_recipe_takes_its_method_and_the_models_pace() -> None:
    own = RECIPE.model_copy(update={"fill": "carry", "prior": True, "edit_weight": 4.0, "restore_detail": True})
    resolved = make_settings({"recipe": "paper", "colour_variants": 5}).resolved(own)
    assert (resolved.fill, resolved.prior, resolved.edit_weight, resolved.restore_detail) == ("grey", False, 1.0, False)
    assert (resolved.steps, resolved.rank, resolved.lr, resolved.colour_variants) == (7, 3, 0.5, 5)


def test_a_model_without_a_recipe_of_its_own_gets_the_papers() -> None:
    asked = {"model", "paper"}
    assert all(named_recipe(name, Recipe()) == PAPER for name in asked)
    assert make_settings({}).resolved(Recipe()) == make_settings({}).resolved(PAPER)


def test_the_fast_recipe_is_the_published_method_in_fewer_steps_on_half_the_area() -> None:
    fast = named_recipe("fast", Recipe(steps=40, sampling_steps=50, guidance=3.5))
    assert (fast.steps, fast.sampling_steps, fast.guidance, fast.area) == (40, 20, 3.5, 0.5)
    assert fast.check_every and (fast.fill, fast.reference_training) == ("grey", "joint")
    assert named_recipe("fast", Recipe()).steps < PAPER.steps
    assert named_recipe("fast", Recipe(reference_steps=200)).reference_steps == 60


def test_the_propagating_recipe_carries_keyframes_at_the_models_pace() -> None:
    carrying = named_recipe("propagate", Recipe(guidance=3.5, prior=True))
    assert (carrying.fill, carrying.strength, carrying.guidance, carrying.prior) == ("carry", 0.9, 3.5, True)
    assert named_recipe("propagate", Recipe(steps=7)).steps == 7
    assert named_recipe("propagate", Recipe(sampling_steps=50)).sampling_steps == 20


@pytest.mark.parametrize(
    ("values", "references", "courses"),
    [
        ({}, 0, []),
        ({}, 1, [(1, 100)]),
        ({}, 2, [(2, 190)]),
        ({}, 3, [(3, 280)]),
        ({"reference_steps": 50}, 2, [(2, 95)]),
        ({"reference_steps": 0}, 2, []),
        ({"budget": "120steps"}, 3, [(3, 120)]),
        ({"reference_training": "sequential"}, 3, [(1, 100), (2, 50), (3, 34)]),
    ],
)
def test_references_are_learnt_jointly_or_one_after_another(
    values: dict[str, Any], references: int, courses: list[tuple[int, int]]
) -> None:
    settings = make_settings(values).resolved(PAPER)
    found = settings.reference_courses(references)
    assert settings.training_steps(references) == settings.steps + sum(steps for _, steps in courses)
    assert settings.model_copy(update={"lora": "none"}).training_steps(references) == 0
    assert [(course.references, course.steps) for course in found] == courses


def test_the_trigger_word_begins_every_text_and_the_prompt_stands_in_for_a_source_prompt() -> None:
    both = make_settings({"prompt": "a red car", "source_prompt": "a car"}).resolved(PAPER)
    assert (both.text, both.source_text) == ("p3rs0n, a red car", "p3rs0n, a car")
    one = make_settings({"prompt": "a red car", "trigger": ""}).resolved(PAPER)
    assert (one.text, one.source_text) == ("a red car", "a red car")
    assert make_settings({}).resolved(PAPER).text == "p3rs0n"
    assert make_settings({"prompt": "p3rs0n, a car"}).resolved(PAPER).text == "p3rs0n, a car"
    bare = {"prompt": "a car", "lora": "none"}
    assert make_settings(bare).resolved(PAPER).text == "a car"
    assert make_settings({**bare, "trigger": "toy"}).resolved(PAPER).text == "toy, a car"


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
        ({"min_noise_level": 1.0}, "'min-noise-level'"),
        ({"lora": "magic"}, "'lora'"),
        ({"colour_variants": "many"}, "'colour-variants'"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make_settings(values)
    assert "\n" not in str(caught.value)


COURSES: tuple[Course, ...] = ("motion", "appearance")
NULLABLE = {
    "captioner", "tracker_model", "transformer", "transformer_2", "budget", "device", "checkpointing",
    "offload_checkpoints", "swap_blocks", "offload_encoders", "reload_weights", "tile_vae", "attention",
    "training_attention", "codec", "store", "feather_px", "preview",
}  # fmt: skip


def test_resolved_settings_are_none_only_where_the_field_says_what_that_stands_for() -> None:
    fields = ResolvedSettings.model_fields
    nullable = {name for name, field in fields.items() if type(None) in get_args(field.annotation)}
    assert nullable == NULLABLE
    assert all("[default: " in (fields[name].description or "") for name in nullable)
    assert EditSettings.model_fields.keys() == fields.keys()


def test_every_field_of_a_recipe_can_be_asked_for_and_left_open() -> None:
    for name, field in Recipe.model_fields.items():
        asked = EditSettings.model_fields[name]
        assert asked.default is None and type(None) in get_args(asked.annotation)
        assert name == "reference_steps" or type(None) not in get_args(field.annotation)


@pytest.mark.parametrize(
    "values",
    [{}, {"budget": "5steps"}, {"recipe": "paper"}, {"fill": "grey"}, {"distilled_steps": 4}, {"reference_steps": 0}],
)
def test_resolving_again_changes_nothing(values: dict[str, Any]) -> None:
    resolved = make_settings(values).resolved(RECIPE)
    assert make_settings(resolved.model_dump()).resolved(Recipe()) == resolved


def test_what_is_left_open_without_a_recipe_to_answer_has_a_value_too() -> None:
    resolved = make_settings({}).resolved(RECIPE)
    assert (resolved.margin, resolved.distilled_steps, resolved.reference_steps) == (DEFAULT_MARGIN, 0, 7)


# ---- metadata --------------------------------------------------------------------------------------------------------


def test_every_setting_has_one_panel() -> None:
    panels = [name for panel in PANELS for name in fields_in_panel(panel)]
    assert sorted(panels) == sorted(EditSettings.model_fields)


def test_metadata_says_what_depends_on_a_setting() -> None:
    names = EditSettings.model_fields
    assert {name for name in names if shapes_mask(name)} == {
        "margin", "tracker", "tracker_model", "mask_boxes", "dilate_px",
    }  # fmt: skip
    assert {name for name in names if is_path(name)} == {
        "model", "transformer", "transformer_2", "extra_lora", "captioner", "tracker_model", "store",
    }  # fmt: skip
    motion, appearance = ({name for name in names if affects_training(name, course)} for course in COURSES)
    assert motion < appearance and appearance - motion == {"reference_steps", "reference_training"}
    assert affects_plan("rank") and not affects_plan("seed")
    assert affects_plan("prior") and affects_plan("condition_on_references")  # they decide what is refused


def test_whatever_shapes_a_mask_can_be_kept_from_it() -> None:
    given = EditSettings().model_copy(update=no_shaping()).resolved(PAPER)
    assert (given.mask_boxes, given.dilate_px) == (False, 0)
    asked = EditSettings().model_copy(update=no_shaping())
    assert (asked.margin, asked.tracker, asked.tracker_model) == (None, "embedded", None)  # those of a given mask
    assert all(from_recipe(name) <= (value is not None) for name, value in no_shaping().items())


def test_whatever_training_takes_is_marked_so() -> None:
    for name in TrainSettings.model_fields.keys() - {"budget_s"}:
        assert affects_training(name, "motion")
    for name in SamplingSettings.model_fields:
        assert not affects_training(name, "motion")


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        EditSettings().steps = 3  # type: ignore[misc]
