"""What the user asked for (:class:`EditSettings`), and the same with every value known (:class:`ResolvedSettings`)."""

from __future__ import annotations

from loraedit.settings.about import PANELS, About, Course, Panel
from loraedit.settings.budget import parse_budget, parse_memory
from loraedit.settings.edit import DEFAULT_MARGIN, EditSettings, make_settings
from loraedit.settings.fields import (
    about,
    affects_plan,
    affects_training,
    fields_in_panel,
    from_recipe,
    is_path,
    no_shaping,
    shapes_mask,
)
from loraedit.settings.phases import Resources, SamplingSettings, TrainSettings
from loraedit.settings.recipe import PAPER, Recipe, named_recipe
from loraedit.settings.recipe_choice import RECIPE_USES, recipes_for
from loraedit.settings.resolved import REFERENCE_REPEATS, ReferenceCourse, ResolvedSettings
from loraedit.settings.values import MAX_MARGIN, Crop, Fill, LoraMode, LoraTargets, RecipeName, Seed, WeightStore

__all__ = [
    "DEFAULT_MARGIN",
    "MAX_MARGIN",
    "PANELS",
    "PAPER",
    "RECIPE_USES",
    "REFERENCE_REPEATS",
    "About",
    "Course",
    "Crop",
    "EditSettings",
    "Fill",
    "LoraMode",
    "LoraTargets",
    "Panel",
    "Recipe",
    "RecipeName",
    "ReferenceCourse",
    "ResolvedSettings",
    "Resources",
    "SamplingSettings",
    "Seed",
    "TrainSettings",
    "WeightStore",
    "about",
    "affects_plan",
    "affects_training",
    "fields_in_panel",
    "from_recipe",
    "is_path",
    "make_settings",
    "named_recipe",
    "no_shaping",
    "parse_budget",
    "parse_memory",
    "recipes_for",
    "shapes_mask",
]
