"""Writes small valid inputs of every kind, from which the fuzz cases are made."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image as PilImage
from scenes import make_scene

from loraedit.types import Clip, Frames
from loraedit.video import write_clip, write_image

__all__ = ["make_kit"]


def make_kit(folder: Path, model: Path) -> Path:
    """Writes inputs of every readable kind, a model, and a finished run with its LoRA; returns the folder."""
    import loraedit

    scene = make_scene()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(model, folder / "model")
    run = folder / "run"
    loraedit.edit(
        Clip(scene.source, Fraction(10)), scene.edited_first, scene.mask, references={4: scene.source[4] // 2},
        model=str(folder / "model"), steps=1, sampling_steps=1, run=run,
    )  # fmt: skip
    shutil.copy(next((run / "lora").glob("motion-*.safetensors")), folder / "lora.safetensors")
    clip = Clip(scene.source, Fraction(10))
    for name in ("clip.mp4", "clip.mkv", "frames"):
        write_clip(folder / name, clip)
    _encode(folder / "clip.avi", "mjpeg", "yuvj420p", scene.source)
    _encode(folder / "clip.webm", "libvpx", "yuv420p", scene.source)
    white = np.repeat(scene.mask[..., None] * np.uint8(255), 3, -1)
    write_clip(folder / "mask.mkv", Clip(white, Fraction(10)))
    pictures = [PilImage.fromarray(frame) for frame in scene.source]
    for name in ("moving.gif", "moving.webp", "moving.png"):
        pictures[0].save(folder / name, save_all=True, append_images=pictures[1:], duration=100)
    _save_images(folder, scene.edited_first)
    return folder


def _encode(path: Path, codec: str, pixels: str, frames: Frames) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for frame in (*(av.VideoFrame.from_ndarray(each, format="rgb24") for each in frames), None):
            container.mux(stream.encode(frame))


def _save_images(folder: Path, edited: np.ndarray) -> None:
    image = PilImage.fromarray(edited)
    for suffix in ("png", "jpg", "webp", "bmp", "tif", "gif"):
        image.save(folder / f"edited.{suffix}")
    for suffix in ("jpg", "tif"):
        image.convert("CMYK").save(folder / f"cmyk.{suffix}")
    write_image(folder / "deep.png", edited.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "deep.tif"), edited.astype(np.uint16) * 257)
    PilImage.fromarray(edited[..., 0].astype(np.uint16) * 257).save(folder / "grey16.png")
    PilImage.fromarray(edited[..., 0].astype(np.float32)).save(folder / "float.tif")
    image.quantize(16).save(folder / "palette.png", transparency=0)
    exif = PilImage.Exif()
    exif[0x0112] = 6
    for name in ("turned.jpg", "turned.png"):
        image.save(folder / name, exif=exif)
