"""Settings resolved against a model's recipe: what everything below the check of a request takes."""

from __future__ import annotations

from math import ceil

from loraedit.settings.budget import parse_budget
from loraedit.settings.common import CommonSettings
from loraedit.settings.phases import SamplingSettings, TrainSettings
from loraedit.settings.recipe import Recipe
from loraedit.settings.values import DistilledSteps, Margin, Steps

__all__ = ["ResolvedSettings"]


class ResolvedSettings(CommonSettings, Recipe):
    """All settings of an edit with a value each. :meth:`EditSettings.resolved` makes them.

    A field is None only where :class:`CommonSettings` says what None means. The recipe's fields never are.

    Attributes:
        reference_steps: training steps on the first reference.
        margin: margin of an automatic mask, as a share of its extent, each side.
        distilled_steps: sampling steps of a distilled LoRA; 0 if none is distilled.
    """

    reference_steps: Steps
    margin: Margin
    distilled_steps: DistilledSteps

    @property
    def carries(self) -> bool:
        """True if carried keyframes are shown inside the mask; otherwise sampling can start from noise alone."""
        return self.fill == "carry" and self.lora == "motion"

    @property
    def budget_s(self) -> float:
        """Seconds that a course of training may take; 0 is no limit."""
        return parse_budget(self.budget)[1]

    def reference_courses(self, references: int) -> list[int]:
        """Returns the training steps that each reference adds; a later one has less left to learn."""
        return [ceil(self.reference_steps / (order + 1)) for order in range(references)]

    def training(self) -> TrainSettings:
        """Returns the settings that determine the LoRA."""
        return TrainSettings.model_validate({name: getattr(self, name) for name in TrainSettings.model_fields})

    def sampling(self) -> SamplingSettings:
        """Returns the settings that determine the sampling."""
        return SamplingSettings.model_validate({name: getattr(self, name) for name in SamplingSettings.model_fields})
