"""All stages, the cheapest proof first."""

from __future__ import annotations

from scripts.gpu_day.compiled import COMPILED_STAGE
from scripts.gpu_day.encoders import TEXT_STAGE, VAE_STAGE
from scripts.gpu_day.sampling import SAMPLING_STAGE
from scripts.gpu_day.small_memory import QUANTISED_STAGE, RUNG_STAGE
from scripts.gpu_day.small_model import NANO_STAGE
from scripts.gpu_day.stage import Stage
from scripts.gpu_day.training import LONG_STAGE, PLAIN_STAGE, TRAINING_STAGE

__all__ = ["STAGES"]

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        NANO_STAGE, TRAINING_STAGE, PLAIN_STAGE, RUNG_STAGE, LONG_STAGE, QUANTISED_STAGE, SAMPLING_STAGE, VAE_STAGE,
        TEXT_STAGE, COMPILED_STAGE,
    )
}  # fmt: skip
