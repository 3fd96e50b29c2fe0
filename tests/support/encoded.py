"""Encodes the small moving scene for training."""

from __future__ import annotations

import torch
from scenes import Scene

from loraedit.diffusion.samples import motion_sample
from loraedit.families.base import Encoded, Family
from loraedit.families.encoding import encode
from loraedit.masks.shaping import resize_mask
from loraedit.types import Size
from loraedit.video.scaling import resize_frames, to_float

CPU = torch.device("cpu")


def encode_motion(family: Family, scene: Scene) -> Encoded:
    """Returns the motion sample of the scene at 48x32, encoded on the CPU."""
    size = Size(32, 48)
    source = resize_frames(to_float(scene.source), size)
    sample = motion_sample(source, resize_mask(scene.mask, size), "a coat")
    return encode(family, [sample], CPU)[0]
