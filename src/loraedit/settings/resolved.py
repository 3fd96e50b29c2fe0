"""Settings resolved against a model's recipe: what everything below the check of a request takes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from loraedit.settings.budget import parse_budget
from loraedit.settings.common import CommonSettings
from loraedit.settings.phases import SamplingSettings, TrainSettings
from loraedit.settings.recipe import Recipe
from loraedit.settings.values import DistilledSteps, Margin, Steps

__all__ = ["REFERENCE_REPEATS", "ReferenceCourse", "ResolvedSettings"]

REFERENCE_REPEATS = 9
"""How often an epoch has a reference for each time that it has the source, as in the paper's second stage."""


@dataclass(frozen=True)
class ReferenceCourse:
    """A course of training on the source and the first references.

    Attributes:
        references: how many of the references it has, in the order in which the user named them.
        steps: its training steps.
    """

    references: int
    steps: int


class ResolvedSettings(CommonSettings, Recipe):
    """All settings of an edit with a value each. :meth:`EditSettings.resolved` makes them.

    A field is None only where :class:`CommonSettings` says what None means. The recipe's fields never are.

    Attributes:
        reference_steps: training steps with one reference.
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

    @property
    def text(self) -> str:
        """The prompt with the trigger word."""
        return self.with_trigger(self.prompt)

    @property
    def source_text(self) -> str:
        """The source prompt with the trigger word; without a source prompt, the prompt takes its place."""
        return self.with_trigger(self.source_prompt or self.prompt)

    def with_trigger(self, prompt: str) -> str:
        """Returns a prompt that begins with the trigger word, once."""
        if prompt.startswith(self.trigger):
            return prompt
        return ", ".join(part for part in (self.trigger, prompt) if part)

    def reference_courses(self, references: int) -> list[ReferenceCourse]:
        """Returns the courses in which the references are learnt.

        Joint training is one course, in which an epoch has the source once and each reference ``REFERENCE_REPEATS``
        times; with one reference it takes ``reference_steps``. Sequential training is a course for each reference, of
        which a later one takes fewer steps, because it has less left to learn.
        """
        steps, most = self.reference_steps, parse_budget(self.budget)[0]
        if not references or not steps:
            return []
        if self.reference_training == "sequential":
            return [ReferenceCourse(count, ceil(steps / count)) for count in range(1, references + 1)]
        joint = ceil(steps * (1 + REFERENCE_REPEATS * references) / (1 + REFERENCE_REPEATS))
        return [ReferenceCourse(references, joint if most is None else min(joint, most))]

    def training_steps(self, references: int) -> int:
        """Returns the training steps of an edit target with so many references, over all courses; 0 without a LoRA."""
        if self.lora == "none":
            return 0
        return self.steps + sum(course.steps for course in self.reference_courses(references))

    def training(self) -> TrainSettings:
        """Returns the settings that determine the LoRA."""
        return TrainSettings.model_validate({name: getattr(self, name) for name in TrainSettings.model_fields})

    def sampling(self) -> SamplingSettings:
        """Returns the settings that determine the sampling."""
        return SamplingSettings.model_validate({name: getattr(self, name) for name in SamplingSettings.model_fields})
