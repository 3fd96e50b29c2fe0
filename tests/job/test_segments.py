"""Claims about how a long clip is cut in time, and about the mask that is kept for all of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loraedit.job.segments import Segment, split, spread
from loraedit.masks.tube import MaskTube
from loraedit.types import Size


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), st.integers(5, 121), st.sampled_from([(4, 2), (4, 4), (8, 8)]))
def test_segments_cover_the_clip_overlap_and_stay_short(frames: int, longest: int, factors: tuple[int, int]) -> None:
    step, temporal = factors
    segments = split(frames, max(longest, step + 1), step, temporal)
    assert segments[0].start == 0 and segments[-1].stop == frames
    assert max(map(len, segments)) <= max(longest, step + 1)
    assert segments[0].fixed == 0
    for before, after in pairwise(segments):
        assert len(before) == len(after) and before.start < after.start
        assert 1 <= after.fixed <= before.stop - after.start
        assert (after.fixed - 1) % temporal == 0
    assert len(segments) == 1 or all((len(segment) - 1) % step == 0 for segment in segments)


def test_a_clip_that_fits_is_one_segment() -> None:
    assert split(33, 33, 4, 2) == [Segment(0, 33, 0)]
    assert [len(each) for each in split(34, 33, 4, 2)] == [25, 25]


def test_some_of_many_segments_are_spread_over_the_clip() -> None:
    segments = split(300, 33, 4, 2)
    chosen = spread(segments, 4)
    assert len(chosen) == 4 and chosen[0] == segments[0] and chosen[-1] == segments[-1]
    assert spread(segments[:2], 4) == segments[:2]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**31))
def test_a_mask_tube_gives_back_what_it_was_made_of(
    frames: int, height: int, width: int, fill: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((frames, height, width)) < fill**4
    tube = MaskTube(mask)
    assert np.array_equal(tube, mask) and tube.size == Size(height, width) and tube.shape == mask.shape
    assert (tube.any(), tube.all()) == (mask.any(), mask.all())
    assert tube.share() == np.mean(mask.mean((1, 2)))
    for index, plane in enumerate(mask):
        box = tube.box(index)
        if box is None:
            assert not plane.any()
        else:
            inside = plane[box[0] : box[2], box[1] : box[3]]
            assert inside.sum() == plane.sum()
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_a_mask_tube_is_named_by_its_content() -> None:
    mask = np.zeros((3, 8, 9), bool)
    mask[1, 2:4, 3:5] = True
    moved = np.roll(mask, 1, axis=2)
    assert MaskTube(mask).fingerprint == MaskTube(list(mask)).fingerprint != MaskTube(moved).fingerprint
