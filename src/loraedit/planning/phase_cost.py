"""The figures of a phase of an edit, and the shape that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loraedit.families.base import tokens_of
from loraedit.families.model_card import ModelCard
from loraedit.types import Size

__all__ = ["PHASES", "Cost", "Shape", "taking_turns"]

PHASES = ("text_encode", "image_encode", "vae_encode", "train", "sample", "vae_decode")

_ON_HOST = ("host_bytes", "checkpoint_bytes", "loaded_bytes", "placing_bytes")


@dataclass(frozen=True)
class Shape:
    """The shape that the model sees: padded frame count and working size, in pixels."""

    frames: int
    size: Size

    def latent(self, card: ModelCard) -> tuple[int, int, int]:
        """Returns ``f, h, w``."""
        return (
            (self.frames - 1) // card.temporal + 1,
            self.size.height // card.spatial,
            self.size.width // card.spatial,
        )

    def tokens(self, card: ModelCard) -> int:
        """Returns the number of video tokens in the transformer's sequence."""
        return tokens_of(card, self.latent(card))


@dataclass(frozen=True)
class Cost:
    """The cost of a phase once: one encoding, one training step, one forward pass.

    Attributes:
        flops: multiplications and additions, counted separately.
        weights_bytes: weights on the device, including the slots of swapped blocks.
        working_bytes: the peak of all other memory; in training it includes gradients and moments.
        host_bytes: weights of swapped blocks, in the host's memory.
        checkpoint_bytes: checkpoints in the host's memory.
        loaded_bytes: weights that are in the host's memory once they are read.
        placing_bytes: the peak of new tensors while the model is placed, such as merged and converted weights.
        idle_bytes: what of the working memory stays between steps.
        all_loaded_bytes: those of all transformers that take turns in the phase.
    """

    flops: int
    weights_bytes: int
    working_bytes: int
    host_bytes: int = 0
    checkpoint_bytes: int = 0
    loaded_bytes: int = 0
    placing_bytes: int = 0
    idle_bytes: int = 0
    all_loaded_bytes: int = 0

    @property
    def peak_bytes(self) -> int:
        """Returns the peak memory of the device."""
        return self.weights_bytes + self.working_bytes

    def beside(self, others_bytes: int) -> Cost:
        """Returns the cost of a phase between whose steps something else takes memory of the device."""
        return replace(self, working_bytes=max(self.working_bytes, self.idle_bytes + others_bytes))


def taking_turns(costs: Sequence[Cost]) -> Cost:
    """Returns the cost of a phase whose transformers are on the device one at a time: that of the largest.

    Whatever else differs between them is counted at its most.
    """
    most = {name: max(getattr(cost, name) for cost in costs) for name in ("flops", *_ON_HOST)}
    largest = max(costs, key=lambda cost: cost.peak_bytes)
    return replace(largest, **most, all_loaded_bytes=sum(cost.loaded_bytes for cost in costs))
