"""Defines what is compared: simple ways to carry an edit, the method and its ablations, and its choices one by one."""

from __future__ import annotations

from typing import Any

from benchmarks.propagation.methods import OURS, Method, best_of_carried, carried, held_still, optical_flow, unchanged

__all__ = ["CARRIED", "CHOICES", "METHODS", "ONE", "PAPER", "TWO"]

ONE = "motion LoRA, one reference"
TWO = "motion LoRA, two references"
PAPER = "motion LoRA, the paper's recipe"
CARRIED = {
    OURS: "carried, no model",
    ONE: "carried, no model, one reference",
    TWO: "carried, no model, two references",
}
"""The method that carries the same edited frames without the model, by method."""


FROM_NOTHING: dict[str, Any] = {"steps": 60, "lr": 3e-3}
"""Without a prior, a LoRA needs more and larger steps than the recipe has."""

_NAIVE: dict[str, Any] = {"lora": "naive", **FROM_NOTHING}
_PAPER: dict[str, Any] = {"recipe": "paper", **FROM_NOTHING}

METHODS: dict[str, Method] = {
    "source unchanged": Method(unchanged),
    "first frame held still": Method(held_still),
    "optical flow (DIS)": Method(optical_flow),
    CARRIED[OURS]: Method(carried),
    "no LoRA": Method(settings={"lora": "none"}),
    "naive LoRA": Method(settings=_NAIVE),
    PAPER: Method(settings=_PAPER),
    OURS: Method(),
    ONE: Method(references=(1.0,)),
    CARRIED[ONE]: Method(carried, references=(1.0,)),
    "carried, best of both by the truth": Method(best_of_carried, references=(1.0,)),
    TWO: Method(references=(0.5, 1.0)),
    CARRIED[TWO]: Method(carried, references=(0.5, 1.0)),
}
"""The rows of the table."""

CHOICES: dict[str, Method] = {
    "prior without a fit": Method(settings={"steps": 0}),
    "half the steps": Method(settings={"steps": 15}),
    "twice the steps": Method(settings={"steps": 60}),
    "no prior": Method(settings={"prior": False, **FROM_NOTHING}),
    "no prior, grey fill": Method(settings={"prior": False, "fill": "grey", **FROM_NOTHING}),
    "grey fill": Method(settings={"fill": "grey"}),
    "no restored detail": Method(settings={"restore_detail": False}),
    "tight mask": Method(tight=True),
    "tight mask, the paper's recipe": Method(settings=_PAPER, tight=True, against=PAPER),
    "twice the steps, the paper's recipe": Method(settings={**_PAPER, "steps": 120}, against=PAPER),
    "twice the steps, naive LoRA": Method(settings={**_NAIVE, "steps": 120}, against="naive LoRA"),
    "equal loss weights": Method(settings={"edit_weight": 1.0}),
    "one colour variant": Method(settings={"colour_variants": 1}),
    "high noise only (t > 0.6)": Method(settings={"min_noise_level": 0.6}),
    "attention only, no prior": Method(settings={"lora_targets": "attention", "prior": False, **FROM_NOTHING}),
    "rank 4, no prior": Method(settings={"rank": 4, "prior": False, **FROM_NOTHING}),
    "half the learning rate": Method(settings={"lr": 5e-4}),
    "twice the learning rate": Method(settings={"lr": 2e-3}),
    "blended latents": Method(settings={"blend_latents": True}),
    "start from pure noise": Method(settings={"strength": 1.0}),
    "one reference, not trained": Method(settings={"reference_steps": 0}, references=(1.0,), against=ONE),
    "one reference, also as condition": Method(
        settings={"condition_on_references": True}, references=(1.0,), against=ONE
    ),
}
"""Variants that change one thing at a time."""
