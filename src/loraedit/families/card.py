"""A checkpoint's card: what can be known from its small JSON files and headers, before any weights load.

A folder in diffusers layout is enough. A file ``loraedit.json`` beside ``model_index.json`` may state the working
size and the recipe; without it the published model's values hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loraedit.errors import ModelError
from loraedit.families.folder import AGAIN, Shapes, check_classes, check_plain, read_json, weights_shapes
from loraedit.families.model_card import ModelCard
from loraedit.families.one_mask_cards import ONE_MASK_CARDS
from loraedit.families.one_mask_layout import OneMaskLayout
from loraedit.families.wan_card import WAN_CLASSES, check_wan_transformer, read_wan_card

__all__ = ["NANO", "ModelCard", "read_card", "read_configuration"]

NANO = Path(__file__).parents[1] / "nano"


@dataclass(frozen=True)
class Layout:
    """How the checkpoints of a pipeline class are read.

    Attributes:
        read: from folder, ``model_index.json`` and single transformer files to a card.
        classes: what its components may be, as :func:`check_classes` takes it.
        check: refuses an expert's folder by the shapes of its tensors.
    """

    read: Callable[[Path, dict[str, Any], Mapping[str, Path]], ModelCard]
    classes: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[ModelCard, str, Shapes], None] = lambda *_: None


def _folder_alone(read: Callable[[Path, dict[str, Any]], ModelCard], layout: OneMaskLayout) -> Layout:
    """The layout of a family that takes no single files."""

    def read_folder(folder: Path, index: dict[str, Any], files: Mapping[str, Path]) -> ModelCard:
        if files:
            raise ModelError(f"A transformer file can replace that of a Wan model only, and '{folder}' is none.")
        return read(folder, index)

    def check(card: ModelCard, expert: str, shapes: Shapes) -> None:
        layout.check(shapes, card.config(expert), card.folder / expert)

    return Layout(read_folder, layout.classes, check)


WAN = Layout(read_wan_card, WAN_CLASSES, check_wan_transformer)
LAYOUTS = {
    "WanImageToVideoPipeline": WAN,
    "WanPipeline": WAN,
    "SkyReelsV2ImageToVideoPipeline": WAN,
    **{pipeline: _folder_alone(*kind) for pipeline, kind in ONE_MASK_CARDS.items()},
}
"""By the class that ``model_index.json`` names."""


def read_card(folder: Path, files: Mapping[str, Path] | None = None) -> ModelCard:
    """Read and check a checkpoint's configuration, and the headers of all its weights.

    Args:
        files: single files (``.safetensors``, ``.gguf``) in place of the folders ``transformer``, ``transformer_2``.

    Raises:
        ModelError: the folder is not an image-to-video checkpoint that takes a mask, or is incomplete or damaged.
    """
    card = _read_configuration(folder, files or {})
    for name in card.components:
        if name not in card.files:
            shapes = weights_shapes(folder / name)
            if name in card.experts:
                with _strange_refused(folder, card.pipeline):
                    LAYOUTS[card.pipeline].check(card, name, shapes)
    if not any((folder / "tokenizer").glob("*")):
        raise ModelError(f"'{folder}' has no tokenizer. {AGAIN}")
    return card


def read_configuration(folder: Path, files: Mapping[str, Path] | None = None) -> ModelCard:
    """The card of a checkpoint of which the small JSON files are there, and perhaps no weights.

    Args:
        files: as for :func:`read_card`.

    Raises:
        ModelError: the folder is not an image-to-video checkpoint that takes a mask.
    """
    return _read_configuration(folder, files or {})


def _read_configuration(folder: Path, files: Mapping[str, Path]) -> ModelCard:
    check_plain(folder)
    index = read_json(folder, "model_index.json")
    pipeline = index.get("_class_name")
    layout = LAYOUTS.get(pipeline) if isinstance(pipeline, str) else None
    if layout is None:
        raise ModelError(
            f"'{folder}' holds a {pipeline}, not an image-to-video model that loraedit knows. "
            f"Expected a checkpoint in diffusers layout of {', '.join(LAYOUTS)}."
        )
    check_classes(folder, index, layout.classes)
    with _strange_refused(folder, str(pipeline)):
        return layout.read(folder, index, files)


@contextmanager
def _strange_refused(folder: Path, pipeline: str) -> Iterator[None]:
    """Turn what a configuration without sense leads to into one sentence."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"The configuration of '{folder}' is not that of a {pipeline} ({type(error).__name__}: {error}). {AGAIN}"
        ) from error
