"""Masks are read from every kind of input, grow and soften as documented, and are packed as in diffusers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as nnf

from loraedit.errors import InputError, ShapeError
from loraedit.masks import packing, reading, shaping
from loraedit.masks.tube import MaskTube
from loraedit.types import Clip, Frames, Mask, Size
from loraedit.video import write_clip, write_image

quick = settings(max_examples=50, deadline=None)
SIZE = Size(6, 8)


@st.composite
def some_masks(draw: st.DrawFn, frames: int | None = None) -> Mask:
    f = frames or draw(st.integers(1, 3))
    h, w, seed = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(0, 2**31))
    density = draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
    return np.random.default_rng(seed).random((f, h, w)) < density


def half(frames: int = 1) -> Mask:
    """Returns a mask of the left half of an 8x6 frame."""
    mask = np.zeros((frames, 6, 8), np.bool_)
    mask[:, :, :4] = True
    return mask


def picture(*rows: str) -> Mask:
    """Returns one frame drawn in text, # = masked."""
    return np.array([[[character == "#" for character in row] for row in rows]])


def as_frames(mask: Mask) -> Frames:
    return np.repeat((mask.astype(np.uint8) * 255)[..., None], 3, axis=-1)


# read_mask


def test_a_box_is_end_exclusive_with_x_first() -> None:
    mask = reading.read_mask("1, 2,5,3", 2, SIZE)
    assert mask[0].dtype == np.bool_ and mask.shape == (2, 6, 8)
    assert np.argwhere(mask).tolist() == [[f, 2, x] for f in range(2) for x in range(1, 5)]


def test_one_image_serves_all_frames(tmp_path: Path) -> None:
    write_image(tmp_path / "m.png", as_frames(half())[0])
    assert np.array_equal(reading.read_mask(tmp_path / "m.png", 3, SIZE), half(3))
    assert np.array_equal(reading.read_mask(str(tmp_path / "m.png"), 3, SIZE), half(3))


@pytest.mark.parametrize("name", ["m.mkv", "m.mp4", "folder"])
def test_a_video_or_folder_gives_one_mask_per_frame(tmp_path: Path, name: str) -> None:
    moving = np.stack([np.roll(half()[0], shift, axis=1) for shift in (0, 2, 4)])
    write_clip(tmp_path / name, Clip(as_frames(moving), Fraction(24)))
    assert np.array_equal(reading.read_mask(tmp_path / name, 3, SIZE), moving)


def test_grey_is_white_from_128(tmp_path: Path) -> None:
    ramp = np.array([[0, 1, 127, 128, 129, 254, 255, 255]] * 6, np.uint8)
    write_image(tmp_path / "m.png", np.repeat(ramp[..., None], 3, axis=-1))
    expected = [False, False, False, True, True, True, True, True]
    assert reading.read_mask(tmp_path / "m.png", 1, SIZE)[0][0].tolist() == expected
    assert reading.read_mask(ramp, 1, SIZE)[0][0].tolist() == expected


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float64, np.float32, np.float16])
@pytest.mark.parametrize("still", [True, False])
def test_arrays_and_tensors_are_read_alike(dtype: type[np.generic], still: bool) -> None:
    values: Any = half(2).astype(dtype) * 255 if dtype is np.uint8 else half(2).astype(dtype)
    values = values[0] if still else values
    for given_values in (values, np.flip(np.flip(values, -1).copy(), -1), torch.from_numpy(values)):
        assert np.array_equal(reading.read_mask(given_values, 2, SIZE), half(2))


def test_another_length_is_refused() -> None:
    with pytest.raises(ShapeError, match="3 frames, but the clip has 2"):
        reading.read_mask(half(3), 2, SIZE)


def test_another_size_is_refused() -> None:
    with pytest.raises(ShapeError, match="8x6, but the clip is 6x8"):
        reading.read_mask(half(), 1, Size(8, 6))


def test_another_rank_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[H, W\] or \[F, H, W\]"):
        reading.read_mask(np.zeros(8), 1, SIZE)


def test_a_black_mask_is_refused() -> None:
    with pytest.raises(InputError, match="black everywhere"):
        reading.read_mask(np.zeros((6, 8)), 1, SIZE)


@pytest.mark.parametrize("spec", ["0,0,8,6", np.ones((6, 8))])
def test_a_white_mask_is_refused(spec: reading.MaskSpec) -> None:
    with pytest.raises(InputError, match="white everywhere"):
        reading.read_mask(spec, 2, SIZE)


@pytest.mark.parametrize("box", ["0,0,9,6", "0,0,8,7", "-1,0,4,4", "0,-2,4,4"])
def test_a_box_beyond_the_frame_is_refused(box: str) -> None:
    with pytest.raises(ShapeError, match="leaves the frame, which is 8x6"):
        reading.read_mask(box, 1, SIZE)


@pytest.mark.parametrize("box", ["4,0,4,6", "5,0,4,6", "0,3,8,3"])
def test_an_empty_box_is_refused(box: str) -> None:
    with pytest.raises(InputError, match="is empty"):
        reading.read_mask(box, 1, SIZE)


@pytest.mark.parametrize("spec", ["1,2,3", "0.5,0,4,4", "nowhere.png"])
def test_an_unreadable_mask_argument_is_refused_with_the_accepted_kinds(spec: str) -> None:
    with pytest.raises(InputError, match='a box as "x0,y0,x1,y1"'):
        reading.read_mask(spec, 1, SIZE)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.5, float("inf")])
def test_floats_outside_0_to_1_are_refused(bad: float) -> None:
    values = half().astype(np.float32)
    values[0, 3, 3] = bad
    with pytest.raises(InputError, match="outside 0 to 1"):
        reading.read_mask(values, 1, SIZE)


@pytest.mark.parametrize(
    "values", [half().astype(np.int64), half().astype(np.uint16), half().astype(str), [[0.0], [0.0, 1.0]]]
)
def test_other_value_types_are_refused(values: Any) -> None:
    with pytest.raises(InputError, match="Give bool, uint8 or float"):
        reading.read_mask(values, 1, SIZE)


# box_regions, dilate, feather


def test_each_region_gets_its_own_box() -> None:
    mask = picture("#.......", "##......", "........", ".....#..", "......#.")
    boxes = picture("##......", "##......", "........", ".....##.", ".....##.")
    assert np.array_equal(shaping.box_regions(mask, grow=0), boxes)


def test_boxes_grow_by_a_tenth_in_all_and_stop_at_the_frame() -> None:
    mask = np.zeros((1, 40, 60), np.bool_)
    mask[0, 0:20, 25:35] = True
    grown = np.zeros_like(mask)
    grown[0, 0:21, 25:36] = True
    assert np.array_equal(shaping.box_regions(mask), grown)


def test_dilating_a_point_gives_a_disk() -> None:
    point = picture(".....", ".....", "..#..", ".....", ".....")
    assert np.array_equal(shaping.dilate(point, 1), picture(".....", "..#..", ".###.", "..#..", "....."))
    assert np.array_equal(shaping.dilate(point, 2), picture("..#..", ".###.", "#####", ".###.", "..#.."))


def test_feather_rises_linearly_from_the_border_inwards() -> None:
    mask = np.zeros((1, 1, 9), np.bool_)
    mask[..., 2:] = True
    np.testing.assert_allclose(shaping.feather(mask, 4), [[[0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1]]])


@pytest.mark.parametrize(
    ("size", "width_px"),
    [(Size(128, 192), 2), (Size(480, 832), 5), (Size(1080, 1920), 11), (Size(1920, 1080), 11), (Size(2160, 3840), 22)],
)
def test_the_default_feather_is_a_hundredth_of_the_short_side(size: Size, width_px: int) -> None:
    assert shaping.default_feather_px(size) == width_px


def test_the_edge_of_the_frame_is_no_border_of_the_mask() -> None:
    assert np.array_equal(shaping.feather(np.ones((1, 4, 4), np.bool_), 3), np.ones((1, 4, 4)))


@quick
@given(some_masks(), st.floats(0, 5))
def test_feather_is_zero_outside_and_above_zero_inside(mask: Mask, radius: float) -> None:
    alpha = shaping.feather(mask, radius)
    assert alpha.dtype == np.float32 and alpha.max() <= 1
    assert np.array_equal(alpha > 0, mask) and bool((alpha[~mask] == 0).all())


@quick
@given(some_masks())
def test_radius_zero_changes_nothing(mask: Mask) -> None:
    assert np.array_equal(shaping.feather(mask, 0), mask.astype(np.float32))
    assert np.array_equal(shaping.dilate(mask, 0), mask)


@quick
@given(some_masks(), st.floats(0, 4))
def test_loosening_never_uncovers_a_pixel(mask: Mask, amount: float) -> None:
    boxes = shaping.box_regions(mask, amount / 10)
    assert bool((boxes | ~mask).all()) and bool((shaping.dilate(mask, amount) | ~mask).all())
    assert np.array_equal(boxes.any((1, 2)), mask.any((1, 2)))


@quick
@given(some_masks(frames=1), st.sampled_from([1.0, 1.5, 2.0, 3.0]))
def test_dilate_agrees_with_measuring_every_distance(mask: Mask, radius: float) -> None:
    grid = np.argwhere(np.ones(mask.shape[1:]))
    steps = grid[:, None] - grid[mask.flatten()]
    near = (np.hypot(steps[..., 0], steps[..., 1]) <= radius + 1e-4).any(1)
    assert np.array_equal(shaping.dilate(mask, radius).flatten(), near)


@pytest.mark.parametrize("change", [shaping.box_regions, shaping.dilate, shaping.feather])
@pytest.mark.parametrize("amount", [-1, float("nan")])
def test_negative_amounts_are_refused(change: Any, amount: float) -> None:
    with pytest.raises(InputError, match="Expected"):
        change(half(), amount)


# resize_mask


def test_a_thin_line_survives_shrinking() -> None:
    mask = np.zeros((1, 64, 64), np.bool_)
    mask[0, :, 37] = True
    assert np.unique(np.argwhere(shaping.resize_mask(mask, Size(8, 8)))[:, 2]).tolist() == [4]


def test_a_pixel_between_two_cells_counts_for_both() -> None:
    assert np.array_equal(shaping.resize_mask(picture(".#."), Size(1, 2)), picture("##"))


@quick
@given(some_masks(), st.integers(1, 15), st.integers(1, 15))
def test_resizing_covers_exactly_the_cells_that_overlap(mask: Mask, h: int, w: int) -> None:
    resized = shaping.resize_mask(mask, Size(h, w))
    source_h, source_w = mask.shape[1:]

    def overlap(new: int, old: int) -> NDArray[np.int64]:
        cells, pixels = np.arange(new)[:, None], np.arange(old)[None]
        overlaps = (pixels * new < (cells + 1) * old) & ((pixels + 1) * new > cells * old)
        return overlaps.astype(np.int64)

    counts = overlap(h, source_h) @ mask.astype(np.int64) @ overlap(w, source_w).T
    assert np.array_equal(resized, counts > 0)


@quick
@given(some_masks(), st.integers(1, 40), st.integers(1, 40))
def test_resizing_is_adaptive_max_pooling(mask: Mask, h: int, w: int) -> None:
    resized = shaping.resize_mask(mask, Size(h, w))
    pooled = nnf.adaptive_max_pool2d(torch.from_numpy(mask).float(), (h, w))
    assert resized.dtype == np.bool_ and np.array_equal(resized, pooled.numpy() > 0)


# pack_keep_mask


def packed_by_diffusers(temporal_factor: int, spatial_factor: int, frames: int, size: Size) -> torch.Tensor:
    levels = spatial_factor.bit_length()
    temporal = [step >= levels - temporal_factor.bit_length() for step in range(levels - 1)]
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1] * levels,
        num_res_blocks=1,
        temperal_downsample=temporal,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        scale_factor_temporal=temporal_factor,
        scale_factor_spatial=spatial_factor,
    )
    pipeline = WanImageToVideoPipeline(tokenizer=None, text_encoder=None, vae=vae, scheduler=None)
    image = torch.zeros(1, 3, size.height, size.width)
    with torch.no_grad():
        _, condition = pipeline.prepare_latents(
            image, 1, 4, size.height, size.width, frames, torch.float32, torch.device("cpu")
        )
    return condition[0, :-4]


@pytest.mark.parametrize(("temporal", "spatial"), [(4, 8), (2, 4)])
def test_packing_equals_diffusers_for_plain_image_to_video(temporal: int, spatial: int) -> None:
    size, frames = Size(4 * spatial, 6 * spatial), 2 * temporal + 1
    edit = np.ones((frames, size.height, size.width), np.bool_)
    edit[0] = False
    packed = packing.pack_keep_mask(edit, 4, 6, temporal)
    assert packed.shape == (temporal, 3, 4, 6) and packed.dtype == np.float32 and packed.flags.c_contiguous
    assert np.array_equal(packed, packed_by_diffusers(temporal, spatial, frames, size).numpy())


def test_packing_gives_one_channel_to_each_pixel_frame_of_a_latent_frame() -> None:
    edit = np.ones((9, 1, 1), np.bool_)
    edit[[0, 1, 6]] = False
    packed = packing.pack_keep_mask(edit, 1, 1, 4)[:, :, 0, 0]
    assert packed.T.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0]]


def test_a_cell_with_one_edited_pixel_is_not_kept() -> None:
    edit = np.zeros((1, 16, 16), np.bool_)
    edit[0, 15, 7] = True
    assert packing.pack_keep_mask(edit, 2, 2, 4)[0, 0].tolist() == [[1, 1], [0, 1]]


@quick
@given(st.integers(0, 3), st.sampled_from([1, 2, 4]), st.integers(0, 2**31))
def test_packing_loses_no_frame(latents: int, factor: int, seed: int) -> None:
    edit = np.random.default_rng(seed).random((factor * latents + 1, 4, 4)) < 0.5
    packed = packing.pack_keep_mask(edit, 4, 4, factor)
    unpacked = packed.swapaxes(0, 1).reshape(-1, 4, 4)
    assert packed.shape == (factor, latents + 1, 4, 4)
    assert np.array_equal(unpacked[factor - 1 :] == 0, edit)


@pytest.mark.parametrize(("frames", "factor"), [(4, 4), (6, 4), (2, 2), (0, 4), (0, 1)])
def test_lengths_that_do_not_pack_are_refused(frames: int, factor: int) -> None:
    with pytest.raises(ShapeError, match=rf"Expected {factor}n \+ 1 frames"):
        packing.pack_keep_mask(np.ones((frames, 8, 8), np.bool_), 1, 1, factor)


def test_loosening_grows_by_a_disk_then_to_boxes_and_never_shrinks() -> None:
    mask = np.zeros((2, 20, 20), bool)
    mask[:, 8, 8] = True
    tube = MaskTube(mask)
    assert shaping.loosen(tube, box=False, dilate_px=0) is tube
    assert shaping.loosen(tube, box=False, dilate_px=2)[0].sum() == 13
    assert shaping.loosen(tube, box=True, dilate_px=2)[0].sum() == 5 * 5
    with pytest.raises(InputError, match="Lower --dilate-px"):
        shaping.loosen(tube, box=False, dilate_px=40)
    with pytest.raises(InputError, match="Add --no-mask-boxes"):
        shaping.loosen(MaskTube(np.eye(20, dtype=bool)[None]), box=True, dilate_px=0)
