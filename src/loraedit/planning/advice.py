"""Advice for an edit that the host's memory cannot hold."""

from __future__ import annotations

from importlib.util import find_spec

from loraedit.families.card import ModelCard
from loraedit.settings import WeightStore

__all__ = ["host_advice"]


def host_advice(card: ModelCard, weights: WeightStore) -> str:
    """Returns what takes less of the host's memory than holding the weights in this way."""
    quantised = [expert for expert in card.experts if card.kinds(expert)]
    if quantised and weights == "full":
        return "leave --weights full out"
    if len(quantised) < len(card.experts) and weights in ("auto", "full"):
        return "give --weights int8 or a quantised --transformer file"
    if weights == "nf4" or not any(card.may_quantise(expert, "nf4") for expert in card.experts):
        return "use fewer frames"
    return "give --weights nf4" if find_spec("bitsandbytes") else "give --weights nf4 (first: pip install '.[quant]')"
