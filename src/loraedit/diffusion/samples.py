"""The samples of the method: each is a choice of condition clip, edit mask and target clip.

    L = E_{t, x0} || v_theta(x_t, t ; V_cond, M_cond, prompt) - (x0 - x1) ||^2

Four functions make that choice: :func:`motion_sample`, :func:`appearance_sample`, :func:`naive_sample` (the ablation
without a mask) and :func:`inference_condition`. The training loop takes samples with a target. The sampler takes a
condition, which is a sample without one.

All arrays are numpy: pixels float32 ``[F, H, W, 3]`` in [-1, 1], masks bool ``[F, H, W]``, True = edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from loraedit.types import Mask, Pixels

__all__ = [
    "FILL",
    "Guide",
    "Sample",
    "appearance_sample",
    "colour_changes",
    "exclude_frames",
    "inference_condition",
    "motion_sample",
    "naive_sample",
    "recolour",
]

FILL = 0.0
"""Mid grey in [-1, 1]: what the model sees where it should generate."""


@dataclass(frozen=True)
class Sample:
    """A condition, and in training the target to learn.

    Attributes:
        condition: V_cond, float32 ``[F, H, W, 3]`` in [-1, 1], grey or guided where the mask is True.
        edit_mask: bool ``[F, H, W]``, True = generate. The families convert it to the paper's keep mask M.
        shown: bool ``[F, H, W]``, True where the condition shows something: outside the mask, and where it is guided.
        image: the frame that an image encoder sees, float32 ``[1, H, W, 3]`` in [-1, 1].
        prompt: the words.
        target: V_target, the same shape as ``condition``; None at inference.
        frame_rate: frames per second of the clip, for a model that reads it; None stands for the model's own.
    """

    condition: Pixels
    edit_mask: Mask
    shown: Mask
    image: Pixels
    prompt: str
    target: Pixels | None = None
    frame_rate: float | None = None

    def parts(self) -> tuple[Any, ...]:
        """Returns everything that the sample consists of, for the key of a cached result."""
        target = "none" if self.target is None else self.target
        rate = () if self.frame_rate is None else (self.frame_rate,)
        return (self.condition, self.edit_mask, self.shown, self.image, self.prompt, target, *rate)


@dataclass(frozen=True)
class Guide:
    """What the edit zone may look like; the model is shown it where the paper shows grey.

    A pixel is shown as it is or not at all. A mixture with grey would look like content, while grey means "unknown".

    Attributes:
        pixels: float32 ``[F, H, W, 3]`` in [-1, 1].
        trusted: bool ``[F, H, W]``, True where the pixels are shown; elsewhere the model sees grey.
    """

    pixels: Pixels
    trusted: Mask


def exclude_frames(edit_mask: Mask, frames: Iterable[int] = (0,)) -> Mask:
    """Returns the edit mask without some frames, which are given as a whole: it is False everywhere in them."""
    kept = edit_mask.copy()
    kept[list(frames)] = False
    return kept


def fill(pixels: Pixels, edit_mask: Mask, guide: Guide | None) -> tuple[Pixels, Mask]:
    """Replaces the edit zone by the guide where it is trusted, and by grey elsewhere.

    Returns:
        The filled pixels, and the mask of those that are not grey by this.
    """
    if guide is None:
        return np.where(edit_mask[..., None], np.float32(FILL), pixels), ~edit_mask
    inside = np.where(guide.trusted[..., None], guide.pixels, np.float32(FILL))
    return np.where(edit_mask[..., None], inside, pixels), ~edit_mask | guide.trusted


def motion_sample(
    source: Pixels, edit_mask: Mask, prompt: str, guide: Guide | None = None, fixed_frames: Iterable[int] = ()
) -> Sample:
    """Teaches motion: reconstruct the source from its first frame and from what lies outside the mask.

    Args:
        source: ``[F, H, W, 3]``.
        edit_mask: ``[F, H, W]``.
        prompt: the words for the source.
        guide: the source keyframes, carried to all frames.
        fixed_frames: indices of further frames that are given as a whole.
    """
    mask = exclude_frames(edit_mask, (0, *fixed_frames))
    condition, shown = fill(source, mask, guide)
    return Sample(condition, mask, shown, source[:1], prompt, target=source)


def naive_sample(source: Pixels, prompt: str, fixed_frames: Iterable[int] = ()) -> Sample:
    """Teaches motion without a mask, the ablation: reconstruct the source from its first and the fixed frames."""
    return motion_sample(source, np.ones(source.shape[:3], bool), prompt, None, fixed_frames)


def appearance_sample(
    source_frame: Pixels, edited_frame: Pixels, edit_mask: Mask, prompt: str, guide: Guide | None = None
) -> Sample:
    """Teaches appearance: generate an edited frame from what lies outside the mask in its source frame.

    Args:
        source_frame: the unedited frame, ``[1, H, W, 3]``.
        edited_frame: the user's edit of it, the same shape.
        edit_mask: the mask of that frame, ``[1, H, W]``, or of the objects in it that were edited.
        prompt: the words for the edited appearance.
        guide: the other edited frames, carried to this one.
    """
    condition, shown = fill(source_frame, edit_mask, guide)
    return Sample(condition, edit_mask, shown, source_frame, prompt, target=edited_frame)


def inference_condition(
    source: Pixels,
    edited_first: Pixels,
    edit_mask: Mask,
    prompt: str,
    guide: Guide | None = None,
    fixed_frames: Mapping[int, Pixels] | None = None,
) -> Sample:
    """Builds the condition of generation: the edited first frame, and the source outside the mask.

    A mask that is True everywhere gives plain image-to-video from the edited first frame.

    Args:
        source: ``[F, H, W, 3]``.
        edited_first: ``[1, H, W, 3]``.
        edit_mask: ``[F, H, W]``.
        prompt: the words for the edited clip.
        guide: the edited keyframes, carried to all frames.
        fixed_frames: further frames that are given as a whole, ``[1, H, W, 3]`` by index.
    """
    fixed = {0: edited_first, **(fixed_frames or {})}
    mask, clip = exclude_frames(edit_mask, fixed), source.copy()
    for index, frame in fixed.items():
        clip[index] = frame[0]
    condition, shown = fill(clip, mask, guide)
    return Sample(condition, mask, shown, edited_first, prompt)


def colour_changes(seed: int, variants: int) -> list[Callable[[Pixels], Pixels]]:
    """Returns what makes each colour variant of a clip; the first is the clip itself."""
    rng = np.random.default_rng((seed, 3))
    return [lambda pixels: pixels, *(recolour(rng) for _ in range(1, variants))]


def recolour(rng: np.random.Generator) -> Callable[[Pixels], Pixels]:
    """Draws a random change of all colours, the same for any frames it is applied to (appearance augmentation).

    It rotates the hue about the grey axis, mirrors it half of the time, and changes contrast and brightness. In three
    of ten cases it swaps light and dark. Grey stays grey.
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
