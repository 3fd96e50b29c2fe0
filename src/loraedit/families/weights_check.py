"""Checks that a loaded module holds the weights of its files, whatever version of the libraries loaded it.

A library that does not find a tensor uses random values, and some versions tie or rename tensors wrongly without
a word. So a few rows of every parameter are compared with those in the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from loraedit.errors import ModelError
from loraedit.families.folder import AGAIN

__all__ = ["check_loaded"]

VERSIONS = "If it is complete, install the newest versions of transformers and diffusers that loraedit allows."


@dataclass(frozen=True)
class _Stored:
    """A tensor in a file: its name, shape and sample; see :func:`_sample`."""

    name: str
    shape: tuple[int, ...]
    sample: Tensor

    @property
    def is_constant(self) -> bool:
        """Whether all values of the sample are the same."""
        return not bool((self.sample != self.sample.flatten()[:1]).any())

    def is_in(self, parameter: Tensor) -> bool:
        """Returns whether a parameter holds this tensor in its own precision."""
        if parameter.is_meta or self.shape != tuple(parameter.shape):
            return False  # diffusers leaves a missing tensor without data
        return torch.equal(self.sample.to(parameter.dtype), _sample(parameter.detach().cpu(), self.shape))


@torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]  # it would convert what is compared
def check_loaded(module: nn.Module, folder: Path) -> None:
    """Checks every parameter of a module against the safetensors files that it was loaded from.

    A parameter must hold the tensor of its name, or one of its names if the class ties it to another. A library may
    have renamed tensors while loading, so a parameter without a tensor of its name may hold any other. Only one that is
    constant, as a missing norm is, must not share that tensor with another parameter.

    Args:
        module: just loaded, on the CPU.
        folder: the folder with its files.

    Raises:
        ModelError: a parameter does not come from the files.
    """
    stored = list(_stored(folder))
    taken: set[int] = set()
    nameless: list[tuple[str, Tensor]] = []
    for names, parameter in _tied(module):
        named = [index for index, each in enumerate(stored) if each.name in names]
        for name in {stored[index].name for index in named}:
            if not any(stored[index].is_in(parameter) for index in named if stored[index].name == name):
                raise ModelError(f"The tensor {name} of '{folder}' was not loaded as it is in its file. {VERSIONS}")
        taken |= set(named)
        if not named:
            nameless.append((names[0], parameter))
    for name, parameter in nameless:
        found = [index for index, each in enumerate(stored) if each.is_in(parameter)]
        free = [index for index in found if index not in taken]
        if not free and (not found or stored[found[0]].is_constant):
            raise ModelError(f"'{folder}' lacks the tensor {name}, or it was not loaded. {AGAIN} {VERSIONS}")
        taken |= set(free[:1])


def _tied(module: nn.Module) -> Iterator[tuple[list[str], Tensor]]:
    """Yields every parameter once, with all its names."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for parameter in module.parameters():
        yield names[id(parameter)], parameter


def _stored(folder: Path) -> Iterator[_Stored]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                tensor = file.get_slice(name)
                shape = tuple(tensor.get_shape())
                yield _Stored(name, shape, _sample(tensor if shape else file.get_tensor(name), shape))


def _sample(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns the first, middle and last row of a tensor, or all of one without rows."""
    if len(shape) < 2:
        return tensor[:].clone() if shape else tensor.clone()
    return torch.cat([tensor[row : row + 1] for row in sorted({0, shape[0] // 2, shape[0] - 1})])
