"""The transformers that an edit uses: all that the cost of a step depends on besides its shape."""

from __future__ import annotations

from dataclasses import dataclass

from loraedit.lora.extra import ExtraLora

__all__ = ["Uses"]


@dataclass(frozen=True)
class Uses:
    """The transformers of an edit.

    Attributes:
        experts: those that sampling uses, in this order; none stands for the model's first.
        trained: those of them that are trained; a plan without any measures a step of all.
        extras: extra LoRAs.
        extra_in_training: whether these are used in training too.
        previews: whether previews are decoded between steps, beside a transformer.
    """

    experts: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    extras: tuple[ExtraLora, ...] = ()
    extra_in_training: bool = False
    previews: bool = False
