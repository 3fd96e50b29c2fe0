"""Helps to choose a recipe: what each is for, and which of them differ for a model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from loraedit.settings.recipe import Recipe, named_recipe
from loraedit.settings.values import RecipeName

__all__ = ["RECIPE_USES", "recipes_for"]

RECIPE_USES: Mapping[RecipeName, str] = MappingProxyType(
    {
        "model": "What was measured best on the model; if nothing was, the same as paper.",
        "paper": "LoRA-Edit as published: for new shapes, objects and motion, and whenever in doubt.",
        "fast": "The published method at half the area at most, in fewer steps: for a first try.",
        "propagate": "Keyframes carried by optical flow: for new colours, textures and logos; measured on nano only.",
    }
)
"""When to use each recipe, a sentence each."""


def recipes_for(asked: RecipeName, own: Recipe) -> list[RecipeName]:
    """Returns the recipes that differ for a model, the one asked for first.

    Args:
        asked: ``model`` counts as ``paper`` if both are the same.
        own: the recipe in the model's card.
    """
    same = named_recipe("model", own).model_dump() == named_recipe("paper", own).model_dump()
    known: list[RecipeName] = [name for name in RECIPE_USES if not (same and name == "model")]
    first: RecipeName = "paper" if same and asked == "model" else asked
    return [first, *(name for name in known if name != first)]
