"""Checks resolved settings against the model's card."""

from __future__ import annotations

from importlib.util import find_spec

from loraedit.errors import InputError
from loraedit.families.card import ModelCard
from loraedit.families.registry import block_count
from loraedit.settings import ResolvedSettings, WeightStore

__all__ = ["check_against_card"]


def check_against_card(settings: ResolvedSettings, card: ModelCard) -> None:
    """Checks that the model can do what the settings ask for.

    Raises:
        InputError: it cannot.
    """
    _check_prior(settings, card)
    _check_blocks(settings, card)
    _check_weights(settings.weights, card)
    if card.mask == "tokens":
        _check_tokens(settings, card)


def _check_weights(weights: WeightStore, card: ModelCard) -> None:
    """Checks that weights can be held as the user wants them."""
    if weights == "nf4" and find_spec("bitsandbytes") is None:
        raise InputError("--weights nf4 needs the bitsandbytes package: pip install '.[quant]'.")
    if weights in ("auto", "full") or any(card.may_quantise(expert, weights) for expert in card.experts):
        return
    expert, file = next(iter(card.files.items()))
    kinds = ", ".join(sorted(set(file.kinds.values()) - {weights}))
    raise InputError(
        f"'{file.path}' is quantised already ({kinds}), so --weights {weights} would lose precision and save little or "
        f"nothing. Leave the option out, or give the {expert} in full precision."
    )


def _check_prior(settings: ResolvedSettings, card: ModelCard) -> None:
    used = settings.prior and settings.lora == "motion"
    if used and not card.prior_rank:
        raise InputError(f"'{card.folder}' includes no prior LoRA to start from. Leave --prior out, or train one.")
    if used and card.prior_rank > settings.rank:
        raise InputError(
            f"The prior LoRA has rank {card.prior_rank}, more than --rank {settings.rank}. "
            "Raise --rank, or add --no-prior."
        )
    if used and settings.lora_targets != "all":
        raise InputError("The prior LoRA adapts all linear layers. Leave --lora-targets out, or add --no-prior.")
    if not used and settings.lora != "none" and settings.steps == 0:
        raise InputError("Without a prior a LoRA of 0 steps does nothing. Give --steps at least 1, or --lora none.")


def _check_blocks(settings: ResolvedSettings, card: ModelCard) -> None:
    count = block_count(card)
    if settings.swap_blocks is not None and settings.swap_blocks > count:
        raise InputError(f"The model has {count} blocks. Give --swap-blocks at most that many.")


def _check_tokens(settings: ResolvedSettings, card: ModelCard) -> None:
    """Checks what a model with one timestep a token cannot be shown."""
    if settings.condition_on_references:
        raise InputError(
            f"'{card.folder}' keeps {card.temporal} frames at a time or none of them, so a single frame cannot be "
            "fixed. Leave --condition-on-references out."
        )
    if settings.carries and settings.strength == 1.0:
        raise InputError(
            f"'{card.folder}' is shown nothing inside the mask, so carried keyframes can only be what sampling starts "
            "from. Give --strength below 1, such as 0.8, or --fill grey."
        )
