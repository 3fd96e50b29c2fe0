"""Finds photographs in packages whose licences allow their use. See README.md for the list."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from pathlib import Path

from pretrain.textures import Image, load_photos

__all__ = ["photo_folders", "photos"]

OPENCV_SAMPLES = Path("/usr/share/doc/opencv-doc/examples/data")


def photo_folders() -> tuple[Path, ...]:
    """Returns the folders of opencv-doc (``OPENCV_SAMPLES`` overrides its place), scikit-image and scikit-learn."""
    folders = [Path(os.environ.get("OPENCV_SAMPLES", OPENCV_SAMPLES))]
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:
            folders.append(Path(spec.origin).parent / folder)
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing or len(folders) < 3:
        raise SystemExit(
            f"Photographs not found ({', '.join(missing)}). Install opencv-doc, scikit-image, scikit-learn."
        )
    return tuple(folders)


@lru_cache(maxsize=1)
def photos() -> tuple[Image, ...]:
    """Loads all photographs."""
    return load_photos(photo_folders())
