"""Photographs for textures and backgrounds, from packages whose licences allow it; README.md lists them.

python -m pretrain.photos FILE      # pack them into one file, for a machine without the packages
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["load_photos", "opencv_samples", "pack_photos"]

OPENCV_SAMPLES = Path("/usr/share/doc/opencv-doc/examples/data")
SIDE = 256
"""Side of the squares that photographs are cut into, in pixels."""
MIN_SIDE = 160
MOST = 255
"""A JPEG picture holds no more squares."""


def opencv_samples() -> Path:
    """Returns the folder of opencv-doc; the environment variable ``OPENCV_SAMPLES`` overrides its place."""
    return Path(os.environ.get("OPENCV_SAMPLES", OPENCV_SAMPLES))


def photo_folders() -> list[Path]:
    """Returns the folders of opencv-doc, scikit-image and scikit-learn, as far as they are installed."""
    folders = [opencv_samples()]
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            folders.append(Path(spec.origin).parent / folder)
    return [folder for folder in folders if folder.is_dir()]


def squares(image: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yields squares of ``SIDE`` pixels that span an image's shorter side: one, or two if the image is long."""
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    for start in (0, long - short) if long > 1.2 * short else ((long - short) // 2,):
        top, left = (start, 0) if height > width else (0, start)
        yield cv2.resize(image[top : top + short, left : left + short], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def is_graphic(image: NDArray[np.uint8]) -> bool:
    """Returns True for diagrams, screenshots and text: few distinct colours, or no variation at all."""
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_NEAREST) >> 3
    return len(np.unique(small.astype(np.int32) @ np.array([1024, 32, 1]))) < 300


def pack_photos(path: Path) -> Tensor:
    """Writes all photographs found into one JPEG picture, square below square, and returns them as stored.

    Returns:
        uint8 ``[N, 3, SIDE, SIDE]``; without photographs N is 0 and nothing is written.
    """
    cut = []
    for folder in photo_folders():
        for file in sorted(folder.rglob("*")):
            image = cv2.imread(str(file), cv2.IMREAD_COLOR) if file.suffix in {".jpg", ".jpeg", ".png"} else None
            if image is not None and min(image.shape[:2]) >= MIN_SIDE and not is_graphic(image):
                cut += list(squares(image))
    path.parent.mkdir(parents=True, exist_ok=True)
    if cut and not cv2.imwrite(str(path), np.concatenate(cut[:MOST]), [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise SystemExit(f"Could not write {path}.")
    return _read(path)


def load_photos(path: Path) -> Tensor:
    """Returns the photographs of a file of :func:`pack_photos`, uint8 ``[N, 3, SIDE, SIDE]``.

    Without the file, the photographs of the installed packages are packed into it first; without any, N is 0.
    """
    return _read(path) if path.exists() else pack_photos(path)


def _read(path: Path) -> Tensor:
    if not path.exists():
        return torch.zeros((0, 3, SIDE, SIDE), dtype=torch.uint8)
    stack = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    return torch.from_numpy(stack).view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2).contiguous()


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description="Packs the photographs of the installed packages into one file.")
    parser.add_argument("file", type=Path, help="a .jpg to write")
    return parser


if __name__ == "__main__":
    print(f"{len(pack_photos(argument_parser().parse_args().file))} squares")
