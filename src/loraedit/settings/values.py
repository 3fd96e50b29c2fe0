"""The ranges of values that settings take, and the base class of all settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "MAX_MARGIN",
    "Context",
    "Count",
    "Crop",
    "DistilledSteps",
    "Factor",
    "Fill",
    "Length",
    "Level",
    "LoraMode",
    "LoraTargets",
    "LrSchedule",
    "Margin",
    "Pixels",
    "Quality",
    "Rank",
    "Rate",
    "RecipeName",
    "ReferenceTraining",
    "Scale",
    "SchedulerName",
    "Seed",
    "Settings",
    "Share",
    "Steps",
    "Strength",
    "WeightStore",
]

LoraMode = Literal["motion", "naive", "none"]
Fill = Literal["grey", "carry"]
LoraTargets = Literal["all", "attention"]
RecipeName = Literal["model", "paper", "fast", "propagate"]
LrSchedule = Literal["constant", "falling"]
ReferenceTraining = Literal["joint", "sequential"]
SchedulerName = Literal["model", "euler", "unipc", "dpm++"]
Crop = Literal["auto", "fixed", "follow", "off"]
Quality = Literal["native", "full"]
WeightStore = Literal["auto", "full", "fp8", "int8", "nf4"]

MAX_MARGIN = 10.0

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Steps = Annotated[int, Field(ge=0, le=1_000_000)]
DistilledSteps = Annotated[int, Field(ge=0, le=1000)]
Rank = Annotated[int, Field(ge=1, le=1024)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Level = Annotated[float, Field(ge=0.0, lt=1.0)]
Factor = Annotated[float, Field(gt=0.0, le=1000.0)]
Scale = Annotated[float, Field(ge=0.0)]
Context = Annotated[float, Field(ge=0.0, le=10.0)]
Margin = Annotated[float, Field(ge=0.0, le=MAX_MARGIN)]
Strength = Annotated[float, Field(gt=0.0, le=1.0)]
Length = Annotated[int, Field(ge=5, le=1_000_000)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Pixels = Annotated[int, Field(ge=0, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown names are refused, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
