"""Worked examples of the functions on flow fields."""

from __future__ import annotations

import numpy as np
import pytest

from loraedit.optical_flow.fields import enlargement_factor, photometric_error, pixel_grid, resize_flow, sample_at
from loraedit.types import Size

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_the_grid_holds_x_and_y_of_every_pixel() -> None:
    grid = pixel_grid(IMAGE)
    assert grid.shape == (4, 6, 2)
    assert grid[3, 5].tolist() == [5, 3]


def test_sampling_at_the_grid_gives_the_image_and_beyond_the_edge_the_edge() -> None:
    assert np.array_equal(sample_at(IMAGE, pixel_grid(IMAGE)), IMAGE)
    assert np.array_equal(sample_at(IMAGE, pixel_grid(IMAGE) - 100)[2, 2], IMAGE[0, 0])
    halfway = sample_at(IMAGE, pixel_grid(IMAGE) + np.float32((0.5, 0)))
    assert np.allclose(halfway[:, :-1], (IMAGE[:, :-1].astype(float) + IMAGE[:, 1:]) / 2)


def test_an_image_has_no_error_against_itself() -> None:
    assert (photometric_error(IMAGE, IMAGE.astype(np.float32)) == 0).all()
    assert np.allclose(photometric_error(IMAGE, IMAGE.astype(np.float32) + 5), 5)


def test_a_resized_flow_counts_in_pixels_of_the_new_size() -> None:
    flow = np.full((4, 6, 2), (3.0, 2.0), np.float32)
    assert resize_flow(flow, Size(4, 6)) is flow
    large = resize_flow(flow, Size(8, 18))
    assert large.shape == (8, 18, 2)
    assert np.allclose(large, (9, 4))


@pytest.mark.parametrize(
    ("size", "factor"), [(Size(50, 60), 2), (Size(200, 300), 1), (Size(10, 400), 1), (Size(10, 100), 4)]
)
def test_small_frames_are_enlarged_and_thin_ones_less(size: Size, factor: float) -> None:
    assert enlargement_factor(size, 100) == factor


def test_a_flow_that_grows_is_interpolated() -> None:
    ramp = np.dstack([np.tile(np.arange(4, dtype=np.float32), (3, 1)), np.zeros((3, 4), np.float32)])
    large = resize_flow(ramp, Size(6, 8))
    assert np.allclose(np.diff(large[0, 1:-1, 0]), 1), "expected equal steps"
