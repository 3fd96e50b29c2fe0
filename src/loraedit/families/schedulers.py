"""Opens the scheduler of a sampling: the checkpoint's own, or a named solver, with any flow shift."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

from loraedit.families.loading import load_scheduler
from loraedit.families.model_card import ModelCard
from loraedit.settings import SamplingSettings

__all__ = ["is_own", "open_scheduler"]

MULTISTEP = {"unipc": UniPCMultistepScheduler, "dpm++": DPMSolverMultistepScheduler}
"""Solvers that use earlier steps, by the names of ``SamplingSettings.scheduler``."""

PLAIN = {"use_dynamic_shifting": False, "shift_terminal": None, "stochastic_sampling": False}
"""Entries of a scheduler's configuration that would change the noise levels or the steps of a given shift."""


def is_own(sampling: SamplingSettings) -> bool:
    """Returns True if the settings leave the noise levels to the checkpoint's own scheduler."""
    return sampling.scheduler == "model" and not sampling.flow_shift


def open_scheduler(
    card: ModelCard, sampling: SamplingSettings, steps: int, device: torch.device, own_shift: float | None = None
) -> Any:
    """Returns a diffusers scheduler with timesteps set: even steps from pure noise, moved by the flow shift.

    Args:
        card: the model.
        sampling: names the solver and the flow shift.
        steps: number of denoising steps.
        device: where the timesteps are put.
        own_shift: the shift that replaces one of 0; None reads it from the checkpoint's scheduler.
    """
    own = load_scheduler(card)
    shift = sampling.flow_shift or own_shift or own.config.get("flow_shift") or own.config.get("shift") or 1.0
    scheduler: Any
    if sampling.scheduler == "model":
        changed = {**PLAIN, "shift": shift, "flow_shift": shift}
        scheduler = type(own).from_config({**own.config, **{k: v for k, v in changed.items() if k in own.config}})
    elif sampling.scheduler == "euler":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    else:
        kind = MULTISTEP[sampling.scheduler]
        scheduler = kind(  # type: ignore[no-untyped-call]
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
        )
    takes_levels = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    if takes_levels:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], device=device)
    else:
        scheduler.set_timesteps(steps, device=device)
    return scheduler
