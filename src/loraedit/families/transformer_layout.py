"""Checks a transformer's tensors against its configuration, from the headers of its files alone.

The models that are checked here gain and lose options with their releases, so a file may hold more tensors than are
named here. Diffusers refuses any that it does not know when it loads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraedit.errors import ModelError
from loraedit.families.folder import AGAIN, Shapes
from loraedit.families.model_card import ModelCard

__all__ = ["COMMON_COMPONENTS", "Config", "TransformerLayout", "patch_size", "width"]

Config = Mapping[str, Any]

COMMON_COMPONENTS = {
    "tokenizer": r"transformers\.\w*Tokeniz\w*",
    "tokenizer_2": r"transformers\.\w*Tokeniz\w*",
    "scheduler": r"diffusers\.\w+Scheduler",
}
"""Classes of the components that all families share, as :class:`FamilyRecord` takes them."""


@dataclass(frozen=True)
class TransformerLayout:
    """The tensors that a transformer must have.

    Attributes:
        block_lists: the lists of blocks, and the entry of the configuration that counts each.
        shapes: returns the shapes of single tensors that follow from a configuration.
    """

    block_lists: Mapping[str, str]
    shapes: Callable[[Config], Shapes]

    def check(self, card: ModelCard, expert: str, shapes: Shapes) -> None:
        """Checks the tensors of a transformer; fits :attr:`FamilyRecord.check_transformer`.

        Raises:
            ModelError: the number of blocks or a size differs from the configuration, or a block differs from the
                first one.
        """
        config, where = card.config(expert), card.folder / expert
        for blocks, count in self.block_lists.items():
            _check_blocks(shapes, blocks, int(config[count]), where)
        for name, shape in self.shapes(config).items():
            if name not in shapes:
                raise ModelError(f"'{where}' lacks the tensor {name}. {AGAIN}")
            if shapes[name] != shape:
                raise ModelError(
                    f"'{where}' is not what its configuration says: {name} is {list(shapes[name])}, not {list(shape)}. "
                    "Give the model that the configuration belongs to."
                )


def _check_blocks(shapes: Shapes, blocks: str, count: int, where: Path) -> None:
    """Checks that a list has ``count`` blocks, and that each has the tensors of the first."""
    found: dict[int, Shapes] = {}
    for name, shape in shapes.items():
        if (match := re.fullmatch(rf"{re.escape(blocks)}\.(\d+)\.(.+)", name)) is not None:
            found.setdefault(int(match[1]), {})[match[2]] = shape
    if found.keys() != set(range(count)):
        raise ModelError(
            f"'{where}' is not what its configuration says: {blocks} has {len(found)} blocks, not {count}. "
            "Give the model that the configuration belongs to."
        )
    for index, block in sorted(found.items()):
        for name in sorted(found[0].keys() | block.keys()):
            if block.get(name) != found[0].get(name):
                problem = "lacks" if name not in block else "has in another size than block 0"
                raise ModelError(f"Block {index} of {blocks} in '{where}' {problem} the tensor {name}. {AGAIN}")


def width(config: Config) -> int:
    """Returns the width of a transformer's hidden states."""
    return int(config["num_attention_heads"] * config["attention_head_dim"])


def patch_size(config: Config) -> tuple[int, int, int]:
    """Returns the latent cells of a patch: frames, height, width."""
    return config["patch_size_t"], config["patch_size"], config["patch_size"]
