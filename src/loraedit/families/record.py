"""The record of a model family: all that loraedit must know before any of the family's own code loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraedit.families.folder import Shapes
from loraedit.families.model_card import ModelCard

if TYPE_CHECKING:
    from loraedit.families.base import Family

__all__ = ["CardReader", "FamilyRecord", "LayerNames", "TransformerCheck"]

CardReader = Callable[[Path, dict[str, Any], Mapping[str, Path]], ModelCard]
"""Reads (checkpoint folder, content of ``model_index.json``, single transformer files by expert) into a model card."""

TransformerCheck = Callable[[ModelCard, str, Shapes], None]
"""Checks (model card, expert, tensor shapes in the expert's folder); raises ModelError."""


@dataclass(frozen=True)
class LayerNames:
    """The names that a family's own code gives to layers, where they differ from diffusers' names.

    ComfyUI, musubi-tuner and DiffSynth use these "native" names in LoRA files. In all tables ``#`` stands for the
    number of a block.

    Attributes:
        native: native name by diffusers' name. A name without a dot also stands for all layers below it.
        fused: diffusers' names by the native name of the layer that holds them as one, in the order of its rows.
        endings: other endings of the native names in ``fused``, and the ending that ``fused`` has.
        only_here: starts of diffusers' names by which a LoRA of a family with fused layers is recognised.
        optional: regular expression for layers that LoRAs of sister models may have beyond this model's own.
    """

    native: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    endings: Mapping[str, str] = field(default_factory=dict)
    only_here: tuple[str, ...] = ()
    optional: str | None = None


@dataclass(frozen=True, eq=False)
class FamilyRecord:
    """A model family. Making one and passing it to :func:`loraedit.families.register` adds the family.

    Attributes:
        name: short name, such as ``wan``.
        pipelines: the pipeline classes that ``model_index.json`` may name in checkpoints of this family.
        open: returns the family of a model card. It imports torch, diffusers and the family's module itself.
        read_card: reads the card of a checkpoint from its small files; see :data:`CardReader`.
        components: the class that each component may have, ``library.Class`` as a regular expression, by the
            component's name in ``model_index.json``. Components that are not listed are never loaded.
        check_transformer: checks an expert's tensors against its configuration; see :data:`TransformerCheck`.
        libraries: Python modules by the library names of ``model_index.json``, besides diffusers and transformers.
        distilled_sampling: sampling settings that its step-distilled LoRAs were made for, besides the number of steps.
        block_counts: the entries of the transformer's configuration that count its blocks. Plans measure a few blocks
            of each kind and extrapolate.
        layer_names: native layer names, for LoRA files.
    """

    name: str
    pipelines: tuple[str, ...]
    open: Callable[[ModelCard], Family]
    read_card: CardReader
    components: Mapping[str, str]
    check_transformer: TransformerCheck = lambda *_: None
    libraries: Mapping[str, str] = field(default_factory=dict)
    distilled_sampling: Mapping[str, Any] = field(default_factory=dict)
    block_counts: tuple[str, ...] = ("num_layers",)
    layer_names: LayerNames = LayerNames()

    @property
    def modules(self) -> dict[str, str]:
        """Returns Python modules by the library names that a ``model_index.json`` of this family may use."""
        return {"diffusers": "diffusers", "transformers": "transformers", **self.libraries}
