"""Keeps measured figures in the user's cache folder, so that each is measured once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
import transformers

from loraedit.families.model_card import ModelCard
from loraedit.planning.skeleton import component_config
from loraedit.storage.files import cache_folder, fingerprint, read_json, write_json

__all__ = ["Figures", "stored"]

FORMAT = 10
"""Part of the key of every stored figure; raise it when the measuring changes."""

Figures = dict[str, int]


def stored(card: ModelCard, component: str, kind: str, facts: Any, measure: Callable[[], Figures]) -> Figures:
    """Returns figures from the cache folder, or measures and stores them there.

    Args:
        card: the model; the configuration of the component counts.
        component: what is measured.
        kind: what is measured of it, such as ``train``.
        facts: everything else that the figures depend on, as JSON values.
        measure: measures them.
    """
    versions = [library.__version__ for library in (torch, diffusers, peft, transformers)]
    built, config = component_config(card, component)
    key = fingerprint(FORMAT, versions, kind, built.__name__, config, facts)
    path = cache_folder("plans") / f"{kind}-{key}.json"
    figures = _read(path)
    if figures is None:
        with _warnings_hidden():
            figures = measure()
        write_json(path, figures)
    return figures


def _read(path: Path) -> Figures | None:
    try:
        return {str(name): int(value) for name, value in read_json(path).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


@contextmanager
def _warnings_hidden() -> Iterator[None]:
    """Hides the libraries' warnings about casts and checkpoints, which mean nothing for fake tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
