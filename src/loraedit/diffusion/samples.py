"""The method itself: every sample is a choice of (condition clip, edit mask, target clip).

    L = E_{t, x0} || v_theta(x_t, t ; V_cond, M_cond, prompt) - (x0 - x1) ||^2

Four small constructors make that choice: :func:`motion_sample` ("learn the dance"), :func:`appearance_sample`
("learn the look"), :func:`naive_sample` (the ablation without a mask) and :func:`inference_condition`. One training
loop eats samples with a target, one sampler eats a condition, which is a sample without one.

All arrays are numpy: pixels float32 ``[F, H, W, 3]`` in [-1, 1], masks bool ``[F, H, W]``, True = edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from loraedit.types import Mask, Pixels, Weights

__all__ = [
    "FILL",
    "Hint",
    "Sample",
    "appearance_sample",
    "frames_kept",
    "inference_condition",
    "motion_sample",
    "naive_sample",
    "recolour",
]

FILL = 0.0
"""What the model sees where it shall generate: mid grey in [-1, 1]."""


@dataclass(frozen=True)
class Sample:
    """A condition, and with a target something to learn from.

    Attributes:
        condition: V_cond, float32 ``[F, H, W, 3]`` in [-1, 1], grey where the mask is True.
        edit_mask: bool ``[F, H, W]``, True = generate. It is turned into the paper's keep mask M at the model's door.
        image: the frame that an image encoder sees, float32 ``[1, H, W, 3]`` in [-1, 1].
        prompt: the words.
        target: V_target, the same shape as ``condition``; None at inference.
    """

    condition: Pixels
    edit_mask: Mask
    image: Pixels
    prompt: str
    target: Pixels | None = None

    def parts(self) -> tuple[Any, ...]:
        """All that the sample consists of, for a key."""
        return (self.condition, self.edit_mask, self.image, self.prompt, "none" if self.target is None else self.target)


@dataclass(frozen=True)
class Hint:
    """What the edit zone may look like, shown to the model where the paper shows grey.

    Attributes:
        pixels: float32 ``[F, H, W, 3]`` in [-1, 1].
        trust: float32 ``[F, H, W]`` in [0, 1]; 0 is grey.
    """

    pixels: Pixels
    trust: Weights


def frames_kept(edit_mask: Mask, frames: Iterable[int] = (0,)) -> Mask:
    """The mask of a clip of which these frames are given as a whole."""
    kept = edit_mask.copy()
    kept[list(frames)] = False
    return kept


def fill(pixels: Pixels, edit_mask: Mask, hint: Hint | None) -> Pixels:
    """The clip with the edit zone replaced by grey, or by as much of the hint as is trusted."""
    inside = np.float32(FILL) if hint is None else FILL + hint.trust[..., None] * (hint.pixels - np.float32(FILL))
    return np.where(edit_mask[..., None], inside, pixels)


def motion_sample(
    source: Pixels, edit_mask: Mask, prompt: str, hint: Hint | None = None, anchors: Iterable[int] = ()
) -> Sample:
    """The dance: from frame 1 and what lies outside the mask, make the source again.

    Args:
        hint: the source's own key frames, carried to all times.
        anchors: further frames that are given as a whole.
    """
    mask = frames_kept(edit_mask, (0, *anchors))
    return Sample(fill(source, mask, hint), mask, source[:1], prompt, target=source)


def naive_sample(source: Pixels, prompt: str, anchors: Iterable[int] = ()) -> Sample:
    """The ablation: from frame 1 alone (and anchors, if there are any), make the source again."""
    return motion_sample(source, np.ones(source.shape[:3], bool), prompt, None, anchors)


def appearance_sample(
    source_frame: Pixels, edited_frame: Pixels, edit_mask: Mask, prompt: str, hint: Hint | None = None
) -> Sample:
    """The look: from what lies outside the mask in one source frame, make the edited frame.

    Args:
        source_frame: the unedited frame, ``[1, H, W, 3]``.
        edited_frame: the user's edit of it, the same shape.
        edit_mask: the mask of that frame, ``[1, H, W]``, or of those objects in it that the edit is of.
        prompt: the words for the edited look.
        hint: the other edited frames, carried to this one.
    """
    return Sample(fill(source_frame, edit_mask, hint), edit_mask, source_frame, prompt, target=edited_frame)


def inference_condition(
    source: Pixels,
    edited_first: Pixels,
    edit_mask: Mask,
    prompt: str,
    hint: Hint | None = None,
    anchors: Mapping[int, Pixels] | None = None,
) -> Sample:
    """What is generated from: the edited first frame, and the source outside the mask.

    A mask that is True everywhere gives plain image-to-video from the edited first frame.

    Args:
        hint: the edited frames, carried to all times.
        anchors: further edited frames ``[1, H, W, 3]`` by index, given as a whole.
    """
    given = {0: edited_first, **(anchors or {})}
    mask, clip = frames_kept(edit_mask, given), source.copy()
    for index, frame in given.items():
        clip[index] = frame[0]
    condition = fill(clip, mask, hint)
    return Sample(condition, mask, edited_first, prompt)


def recolour(rng: np.random.Generator) -> Callable[[Pixels], Pixels]:
    """One random change of all colours, for any frames (appearance augmentation).

    The hue is rotated about the grey axis (half of the time mirrored too), contrast and brightness change, and in three
    cases of ten light and dark swap. Grey stays grey.
    """
    angle = rng.uniform(0.15, 0.85) * 2 * np.pi
    cos, sin, third = np.cos(angle), np.sin(angle), 1 / 3
    diagonal, plus, minus = (
        cos + (1 - cos) * third,
        (1 - cos) * third + sin * 3**-0.5,
        (1 - cos) * third - sin * 3**-0.5,
    )
    rotation = np.array([[diagonal, minus, plus], [plus, diagonal, minus], [minus, plus, diagonal]])
    if rng.random() < 0.5:
        rotation = rotation[:, [0, 2, 1]]
    gain = rng.uniform(0.7, 1.3) * (-1 if rng.random() < 0.3 else 1)
    turned, shift = gain * rotation.astype(np.float32), np.float32(rng.uniform(-0.2, 0.2))

    def change(pixels: Pixels) -> Pixels:
        return np.clip(pixels @ turned + shift, -1, 1).astype(np.float32)

    return change
