"""Photographs for textures and backgrounds, from packages whose licences allow it; README.md lists them.

    python -m pretrain.photos FILE      # pack them into one file, for a machine without the packages
"""

from __future__ import annotations

import importlib.util
import os
import sys
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
    """Yields squares of ``SIDE`` pixels that cover an image, its shorter side filling them: one, or two if it is long."""
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
    """Writes all photographs found into one file, uint8 ``[N, SIDE, SIDE, 3]`` one below the other in a JPEG picture (at most 255 fit)."""
    cut = []
    for folder in photo_folders():
        for file in sorted(folder.rglob("*")):
            image = cv2.imread(str(file), cv2.IMREAD_COLOR) if file.suffix in {".jpg", ".jpeg", ".png"} else None
            if image is not None and min(image.shape[:2]) >= MIN_SIDE and not is_graphic(image):
                cut += list(squares(image))
    path.parent.mkdir(parents=True, exist_ok=True)
    stack = np.concatenate(cut) if cut else np.zeros((0, SIDE, 3), np.uint8)
    if cut and not cv2.imwrite(str(path), stack, [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise SystemExit(f"Could not write {path}.")
    return _unpacked(np.ascontiguousarray(stack[..., ::-1]))


def load_photos(path: Path) -> Tensor:
    """Returns the photographs of a file of :func:`pack_photos`, uint8 ``[N, 3, SIDE, SIDE]``.

    Without the file, the photographs of the installed packages are packed into it first; without any, N is 0.
    """
    if not path.exists():
        pack_photos(path)
    if not path.exists():
        return torch.zeros((0, 3, SIDE, SIDE), dtype=torch.uint8)
    return _unpacked(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))


def _unpacked(stack: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(stack).view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2).contiguous()


if __name__ == "__main__":
    print(f"{len(pack_photos(Path(sys.argv[1])))} squares")
