"""Checks resolved settings against the device, before anything is encoded or loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loraedit.errors import InputError
from loraedit.families.card import ModelCard
from loraedit.settings import ResolvedSettings, WeightStore

if TYPE_CHECKING:
    import torch

__all__ = ["check_against_device", "check_kind_of_device"]

COMPILES_FP8 = 8, 9
"""The lowest compute capability for which Triton compiles float8_e4m3fn."""


def check_kind_of_device(weights: WeightStore, kind: str) -> None:
    """Checks that a kind of device, such as ``mps``, can hold weights as the user wants them.

    Raises:
        InputError: it cannot.
    """
    if (weights, kind) == ("fp8", "mps"):
        raise InputError("A Mac's GPU (mps) has no fp8. Give --weights int8, which takes as much memory.")


def check_against_device(settings: ResolvedSettings, card: ModelCard, device: torch.device) -> None:
    """Checks that the device of an edit can do what the settings ask for.

    Args:
        card: the model's, as this device holds it; see :meth:`ModelCard.held_on`.

    Raises:
        InputError: it cannot.
    """
    import torch

    check_kind_of_device(settings.weights, device.type)
    fp8 = settings.weights == "fp8" or (settings.weights == "auto" and card.has_kind("fp8"))
    if not (fp8 and settings.compile_blocks and device.type == "cuda" and torch.version.hip is None):
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < COMPILES_FP8:
        raise InputError(
            f"--compile-blocks cannot compile fp8 weights on this GPU, whose compute capability is "
            f"{'.'.join(map(str, capability))}; that takes 8.9 or more. Leave it out, or give other --weights."
        )
