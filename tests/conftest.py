"""Defines the shared fixtures: the small moving scene, and tiny random checkpoints of every kind."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["LORAEDIT_STORE"] = "none"  # tests must not find each other's LoRAs

import pytest
from mutants import HOSTILE_PROMPT
from scenes import Scene, make_scene

from loraedit.optical_flow.base import FlowOptions
from loraedit.types import Clip

if TYPE_CHECKING:
    from loraedit.families.base import Family

VARIANTS = {
    "wan21": {"image_encoder": True},
    "wan22": {"two_experts": True},
    "plain": {},
    "nano-like": {"temporal": 2, "euler": True},
}


def pytest_collection_finish() -> None:
    """Freezes everything imported by now, so that the garbage collector skips it whenever a model is freed."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _short_collections() -> None:
    """Leaves what earlier modules created out of garbage collections, of which every loading of a model makes one."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks() -> Iterator[None]:
    """Skips fsync, since tests do not survive a power failure anyway."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _generation_in_float32() -> Iterator[None]:
    """Generates in float32, since results are compared with other code; `test_wan_cpu.py` covers bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loraedit.sampling.transformers.converts_weights", lambda _: False)
        yield


@pytest.fixture
def coarse_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures flow on small frames without enlarging them, for tests that do not depend on its quality."""
    monkeypatch.setattr("loraedit.editing.target_clip.PROPAGATION_FLOW", FlowOptions(smoothness=5.0))


@pytest.fixture
def scene() -> Scene:
    return make_scene()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Writes a tiny random checkpoint of every kind of Wan model; returns the folders by name."""
    from tiny import save_tiny_wan
    from tiny_cards import write_card

    folders = {}
    for name, options in VARIANTS.items():
        folders[name] = write_card(save_tiny_wan(tmp_path_factory.mktemp("models") / name, **options))
    return folders


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Writes a tiny random checkpoint in the layout of every published Wan model; returns the folders by Hub id."""
    from tiny import distinct_models, save_tiny_known
    from tiny_cards import write_card

    folders = {}
    for known in distinct_models():
        place = tmp_path_factory.mktemp("published") / known.id.split("/")[1]
        folders[known.id] = write_card(save_tiny_known(place, known))
    return folders


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Writes a tiny random checkpoint of every family except Wan; returns the folders by name (``parity.KINDS``)."""
    from parity import save_all

    return save_all(tmp_path_factory.mktemp("others"))


@pytest.fixture(scope="session")
def every(checkpoint: Path, others: dict[str, Path]) -> dict[str, Path]:
    """Returns a tiny random checkpoint of every family, by name."""
    return {"wan": checkpoint, **others}


@pytest.fixture(scope="session")
def checkpoint(checkpoints: dict[str, Path]) -> Path:
    """Returns the tiny checkpoint with Wan2.1's compression factors and no optional parts."""
    return checkpoints["plain"]


@pytest.fixture(scope="session")
def finished_run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the run folder of a small edit. Copy it before changing anything in it."""
    import loraedit

    scene, run = make_scene(), tmp_path_factory.mktemp("finished") / "run"
    loraedit.edit(
        Clip(scene.source, Fraction(5)), scene.edited_first, scene.mask,
        model=str(checkpoint), steps=2, run=run, prompt=HOSTILE_PROMPT,
    )  # fmt: skip
    return run


@pytest.fixture(scope="module")
def family(folder: Path) -> Family:
    """Opens the family of a test module's ``folder`` fixture."""
    from loraedit.families import open_family
    from loraedit.families.card import read_card

    return open_family(read_card(folder))
