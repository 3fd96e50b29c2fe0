"""The transformers that an edit uses: all that the cost of a step depends on besides its shape."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Uses"]


@dataclass(frozen=True)
class Uses:
    """The transformers of an edit.

    Attributes:
        experts: those that sampling uses, in this order; none stands for the model's first.
        trained: those of them that are trained; a plan without any measures a step of all.
    """

    experts: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
