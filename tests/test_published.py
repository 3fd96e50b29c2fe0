"""The published configurations that the tiny checkpoints are made from are of the published sizes."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from tiny_hunyuan import PUBLISHED

COMPONENTS: dict[str, dict[str, Any]] = PUBLISHED["components"]


def build(kind: str, config: dict[str, Any]) -> torch.nn.Module:
    """A component on the meta device: all of its shapes, none of its weights."""
    with torch.device("meta"):
        if hasattr(diffusers, kind):
            return getattr(diffusers, kind)(**config)
        if kind == "LTX2TextConnectors":
            return LTX2TextConnectors(**config)
        model = getattr(transformers, kind)
        return model(model.config_class(**config))


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_of_the_published_configuration_has_the_published_size(name: str) -> None:
    component = COMPONENTS[name]
    module = build(component["class"], component["config"])
    assert sum(parameter.numel() for parameter in module.parameters()) == component["parameters"]


def test_every_model_is_made_of_components_in_the_table() -> None:
    for model in PUBLISHED["models"]:
        assert set(model["components"].values()) <= COMPONENTS.keys()
        assert "shift" in inspect.signature(getattr(diffusers, model["scheduler"][0])).parameters
