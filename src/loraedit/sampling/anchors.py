"""Anchors of a sampling: the latent cells that are held to what the condition shows there, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loraedit.families.base import Encoded, Family
from loraedit.sampling.schedule import Schedule
from loraedit.settings import SamplingSettings

__all__ = ["Anchors"]


@dataclass(frozen=True)
class Anchors:
    """Holds cells of the latents to what the condition shows there.

    A cell is held by the velocity that leads from where it is to what it shows. So every scheduler takes it along the
    straight line between the noise and the condition, also one that looks back at earlier steps.

    Attributes:
        target: the condition's latents, ``[c, f, h, w]``.
        always: bool ``[1, f, h, w]``, the cells that are held in every step.
        at_start: bool ``[1, f, h, w]``, the cells that are held above the strength.
        strength: a noise level.
    """

    target: Tensor
    always: Tensor
    at_start: Tensor
    strength: float

    @classmethod
    def of(cls, family: Family, condition: Encoded, sampling: SamplingSettings, shown: Tensor | None) -> Anchors:
        """Returns the anchors of a sampling.

        Args:
            shown: bool ``[1, f, h, w]``, the cells that show something to start from; None means no cell.
        """
        channels = family.card.latent_channels
        kept = condition.keep(channels) == 1
        blends = sampling.blend_latents or family.card.mask == "tokens"  # such a model predicts nothing for kept tokens
        always = kept if blends else torch.zeros_like(kept)
        at_start = always if shown is None else always | shown.to(kept.device)
        return cls(condition.condition[-channels:], always, at_start, sampling.strength)

    def hold(self, latents: Tensor, velocity: Tensor, schedule: Schedule, index: int) -> Tensor:
        """Returns the velocity of a step, replaced in the cells that are held. The model always has the last step."""
        level = schedule.levels[index]
        held = self.at_start if level > self.strength and index + 1 < len(schedule) else self.always
        return torch.where(held, (latents - self.target) / level, velocity)
