"""What all stages share: the model, the sizes to measure at, the device, and the plans."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from loraedit.families.card import ModelCard, read_configuration
from loraedit.families.skeleton import open_skeleton
from loraedit.runtime.devices import find_device, simulated_accelerator
from loraedit.settings import TrainSettings
from loraedit.storage.files import write_json
from loraedit.types import Size
from scripts.gpu_day.plans import Plans

__all__ = ["MODEL", "TINY", "TRUE", "Bench", "Scale", "free", "now", "open_bench"]

MODEL = "wan2.1-i2v-14b-480p"


@dataclass(frozen=True)
class Scale:
    """The sizes to measure at.

    Attributes:
        short: frames of a short clip.
        long: frames of a long one.
        few: frames where only precision matters.
        small: the working size of most measurements.
        large: a larger one, for the VAE.
        rank: of the LoRAs.
        steps: training steps after the first, whose time is not counted.
        budget: bytes of a small GPU, for the memory measures that fit it; None takes less than training needs.
        backend: compiler of the compiled blocks.
        shrunk: numbers in the configuration of each component that replace the published ones.
    """

    short: int
    long: int
    few: int
    small: Size
    large: Size
    rank: int
    steps: int
    budget: int | None
    backend: str
    shrunk: dict[str, dict[str, object]]


TRUE = Scale(49, 81, 17, Size(480, 832), Size(720, 1280), 16, 3, 24 * 10**9, "inductor", {})
TINY = Scale(
    short=5, long=9, few=5, small=Size(48, 64), large=Size(64, 96), rank=4, steps=1, budget=None,
    backend="eager",
    shrunk={
        "transformer": {
            "num_attention_heads": 2, "attention_head_dim": 64, "ffn_dim": 256, "num_layers": 4, "text_dim": 64,
            "freq_dim": 32, "image_dim": 64, "added_kv_proj_dim": 128,
        },
        "vae": {"base_dim": 4, "num_res_blocks": 1},
        "text_encoder": {"d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_heads": 2, "vocab_size": 256},
        "image_encoder": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        },
    },
)  # fmt: skip
"""Small versions of the same classes. Compiled blocks are traced, but no code is generated."""


@dataclass(frozen=True)
class Bench:
    """What a stage works with.

    Attributes:
        card: the model.
        scale: the sizes to measure at.
        device: where to measure.
        plans: the plans.
        folder: for files of this run.
    """

    card: ModelCard
    scale: Scale
    device: torch.device
    plans: Plans
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Returns whether times and the device's own count of memory mean anything."""
        return self.device.type == "cuda"

    @property
    def training(self) -> TrainSettings:
        """Returns the settings of a short training."""
        return TrainSettings(steps=self.scale.steps + 1, rank=self.scale.rank, lr=1e-4)


@contextmanager
def open_bench(scale: Scale, device: str | None, planned: Path, folder: Path) -> Iterator[Bench]:
    """Provides a bench; a CPU then computes in the precision of a GPU.

    Args:
        scale: the sizes to measure at.
        device: where to measure; None is the best device of this machine.
        planned: file of the plans.
        folder: for files of this run.
    """
    with ExitStack() as stack:
        card, place = stack.enter_context(open_skeleton(MODEL)), find_device(device)
        if scale.shrunk:
            for name, numbers in scale.shrunk.items():
                write_json(card.folder / name / "config.json", {**card.config(name), **numbers})
            card = read_configuration(card.folder)
        if place.type == "cpu":
            stack.enter_context(simulated_accelerator())
        settings = TrainSettings(steps=1, rank=scale.rank, lr=1e-4)
        yield Bench(card, scale, place, Plans(card, settings, planned), folder)


def now(device: torch.device) -> float:
    """Returns the time in seconds, once the device has done all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.monotonic()


def free() -> None:
    """Gives memory back that nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
