"""Extra LoRAs that the user supplies: parsing the option, checks against the model, and effects on sampling.

Only headers are read here, so an unusable LoRA is refused before any weights load.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from loraedit.errors import InputError, ModelError
from loraedit.families.card import ModelCard
from loraedit.families.registry import record_of
from loraedit.lora.header import read_header
from loraedit.lora.matching import match_header
from loraedit.settings import EditSettings
from loraedit.storage.files import hash_file

__all__ = [
    "NOISES",
    "ExtraLora",
    "check_extras",
    "distilled_steps",
    "for_expert",
    "parse_extra",
    "settle_distilled",
]

NOISES = ("high", "low")
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
SPEC = re.compile(rf"(?P<path>.+?)(?::(?P<weight>{NUMBER}))?(?::(?P<noise>high|low))?", re.DOTALL | re.IGNORECASE)

DISTILLED = re.compile(r"distil|lightning|lightx2v|turbo|hyper|causvid|accvid|dmd", re.IGNORECASE)
STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])", re.IGNORECASE)
FOUR_STEPS = re.compile(r"step[-_ ]?distil|lightx2v|lightning", re.IGNORECASE)
"""In names: that a LoRA is distilled, its number of steps, and names that stand for four steps without stating it."""
TITLES = ("modelspec.title", "ss_output_name")
"""Metadata keys in which training tools keep the file's original name."""


@dataclass(frozen=True)
class ExtraLora:
    """A LoRA file to generate with.

    Attributes:
        path: the file.
        weight: factor of the LoRA.
        noise: for models with two experts, the one that uses the LoRA, ``high`` or ``low``; None means all.
    """

    path: Path
    weight: float = 1.0
    noise: str | None = None

    @cached_property
    def key(self) -> list[str | float | None]:
        """Returns the LoRA's identity: hash of the contents, weight and noise."""
        return [hash_file(self.path)[:12], self.weight, self.noise]


def for_expert(extras: Sequence[ExtraLora], expert: str, experts: Sequence[str]) -> list[tuple[Path, float]]:
    """Returns file and weight of the LoRAs that one of the model's experts uses."""
    noise = dict(zip(experts, NOISES, strict=False))[expert]
    return [(extra.path, extra.weight) for extra in extras if extra.noise in (None, noise)]


def parse_extra(text: str) -> ExtraLora:
    """Parses ``FILE``, ``FILE:WEIGHT``, ``FILE:high`` or ``FILE:WEIGHT:low``.

    Raises:
        InputError: the text has another form.
    """
    match = SPEC.fullmatch(text)
    weight = float(match["weight"] or 1) if match else math.nan
    if match is None or not math.isfinite(weight) or abs(weight) > 1000:
        raise InputError(
            f"Extra LoRA '{text}' is not of the form FILE[:WEIGHT][:high|low], as in style.safetensors:0.8."
        )
    path = os.path.expanduser(match["path"])  # noqa: PTH111 (Path.expanduser raises for an unknown user)
    return ExtraLora(Path(path), weight, match["noise"] and match["noise"].lower())


def check_extras(extras: Sequence[ExtraLora], card: ModelCard) -> list[str]:
    """Checks that each file is a LoRA for this model, whose weights may be absent for a plan.

    Returns:
        A message for each LoRA with layers that the model lacks.

    Raises:
        InputError: a LoRA is for an expert that the model does not have.
        ModelError: a LoRA cannot be read, or is for another model.
    """
    notes = []
    for extra in extras:
        if extra.noise is not None and len(card.experts) != len(NOISES):
            raise InputError(
                f"Extra LoRA '{extra.path}' is for {extra.noise} noise, but the model has one transformer for all "
                f"noise levels. Remove ':{extra.noise}'."
            )
        header = read_header(extra.path)
        left_out: set[str] = set()
        for expert in card.experts:
            shapes = _shapes(card, expert)
            if shapes and for_expert([extra], expert, card.experts):
                left_out.update(match_header(header, shapes))
        if left_out:
            notes.append(f"{len(left_out)} layers of '{extra.path.name}' are not in this model and have no effect.")
    return notes


def _shapes(card: ModelCard, expert: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a transformer's parameters by name, from the headers of its files."""
    if expert in card.files:
        return card.files[expert].shapes
    shapes = {}
    for path in sorted((card.folder / expert).glob("*.safetensors")):
        try:
            with safe_open(path, "np") as file:
                shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"'{path}' cannot be read as safetensors. Fetch the checkpoint again.") from error
    return shapes


def distilled_steps(extra: ExtraLora) -> int | None:
    """Returns the sampling steps that a LoRA is distilled to, by its file name or title; None if neither says so."""
    with safe_open(extra.path, "np") as file:
        metadata = file.metadata() or {}
    for name in (extra.path.stem, *(metadata.get(title, "") for title in TITLES)):
        steps = STEPS.search(name)
        if steps is not None and DISTILLED.search(name) and int(steps[1]) > 0:
            return int(steps[1])
        if FOUR_STEPS.search(name):
            return 4
    return None


def settle_distilled(
    settings: EditSettings, extras: Sequence[ExtraLora], card: ModelCard
) -> tuple[EditSettings, list[str]]:
    """Fills in what a step-distilled LoRA decides about the sampling, as far as the user left it open.

    A LoRA is taken for a distilled one by ``distilled_steps``, or by its name.

    Returns:
        The settings, and a note if a name has decided.

    Raises:
        InputError: the extra LoRAs cannot be used in training.
    """
    if settings.extra_in_training and not (extras and settings.lora != "none"):
        raise InputError("--extra-in-training needs an --extra-lora and a LoRA to train. Remove it.")
    name = None
    if settings.distilled_steps is None:
        steps, name = max(((distilled_steps(extra) or 0, extra.path.name) for extra in extras), default=(0, ""))
        settings = settings.model_copy(update={"distilled_steps": steps})
    if not settings.distilled_steps:
        return settings, []
    if settings.extra_in_training:
        raise InputError(
            "A distilled LoRA cannot be used in training, because it has unlearnt the noise levels between its few "
            "steps. Remove --extra-in-training; if no LoRA is distilled, add --distilled-steps 0."
        )
    wanted: dict[str, Any] = {"sampling_steps": settings.distilled_steps}
    if not card.embeds_guidance:
        wanted["guidance"] = 1.0
    wanted |= record_of(card.pipeline).distilled_sampling
    decided = {field: value for field, value in wanted.items() if getattr(settings, field) is None}
    return settings.model_copy(update=decided), [_distilled_note(name, wanted, decided)] if name and decided else []


def _distilled_note(name: str, wanted: Mapping[str, Any], decided: Mapping[str, Any]) -> str:
    """Says how sampling follows a distilled LoRA, and which of the user's options it leaves alone."""
    options = {field: "--" + field.replace("_", "-") for field in wanted}
    changes = ", ".join(f"{options[field]} {value:g}" if isinstance(value, int | float) else f"{options[field]} {value}"
                        for field, value in decided.items())  # fmt: skip
    kept = " and ".join(options[field] for field in wanted if field not in decided)
    yours = f" Your {kept} stays." if kept else ""
    return (
        f"By its name, '{name}' is distilled to {wanted['sampling_steps']} steps, so sampling takes {changes}.{yours} "
        "If it is not distilled, add --distilled-steps 0."
    )
