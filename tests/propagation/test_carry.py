"""Claims about carrying edited frames along the source's motion."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from loraedit.masks.shaping import dilate
from loraedit.optical_flow.dis import FlowMeter, grid
from loraedit.propagation.added_parts import Part, Things, ride
from loraedit.propagation.carry import carry
from loraedit.propagation.paths import FarKey, trace
from loraedit.types import Frames, Image, Mask, Size

FRAMES, SIDE, THING = 7, 96, 36


def pattern(seed: int, height: int, width: int) -> Image:
    """Smooth noise: something for the flow to hold on to."""
    rough = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def moving(look: Image, ground: Image, step: int = 4) -> tuple[Frames, Mask]:
    """A square with a look moves to the right over a ground."""
    frames, where = np.repeat(ground[None], FRAMES, 0), np.zeros((FRAMES, SIDE, SIDE), bool)
    for index in range(FRAMES):
        left = 10 + step * index
        frames[index, 30 : 30 + THING, left : left + THING] = look
        where[index, 30 : 30 + THING, left : left + THING] = True
    return frames, where


GROUND, OLD, NEW = pattern(0, SIDE, SIDE), pattern(1, THING, THING), pattern(2, THING, THING)
SOURCE, WHERE = moving(OLD, GROUND)
TRUTH, _ = moving(NEW, GROUND)


def error(frames: Frames, truth: Frames, where: Mask) -> float:
    return float(np.abs(frames.astype(float) - truth)[where].mean())


def test_an_edit_is_carried_with_the_thing_it_sits_on() -> None:
    carried = carry(SOURCE, [{0: TRUTH[0]}])[0]
    still = np.repeat(TRUTH[:1], FRAMES, 0)
    assert error(carried.frames, TRUTH, WHERE) < 0.2 * error(still, TRUTH, WHERE)
    assert carried.trust[WHERE].mean() > 0.8


def test_the_given_frames_come_back_as_they_are_and_fully_trusted() -> None:
    carried = carry(SOURCE, [{2: TRUTH[2], 5: TRUTH[5]}])[0]
    for index in (2, 5):
        assert np.array_equal(carried.frames[index], TRUTH[index])
        assert (carried.trust[index] == 1).all()
    assert carried.frames.shape == SOURCE.shape and carried.frames.dtype == np.uint8
    assert carried.trust.min() >= 0 and carried.trust.max() <= 1


def test_several_looks_are_carried_the_same_way() -> None:
    edited, plain = carry(SOURCE, [{0: TRUTH[0]}, {0: SOURCE[0]}])
    assert np.array_equal(edited.frames, carry(SOURCE, [{0: TRUTH[0]}])[0].frames)
    assert np.array_equal(edited.trust, plain.trust)
    assert error(plain.frames, SOURCE, WHERE) < 12


def test_a_look_is_carried_the_same_way_whatever_goes_beside_it() -> None:
    """A frame that was made counts by how far the user's frames of its own look are."""
    look = {0: TRUTH[0], 2: SOURCE[2]}
    alone, beside = (carry(SOURCE, looks, made=(2,))[0] for looks in ([look], [look, look | {FRAMES - 1: TRUTH[-1]}]))
    assert np.array_equal(alone.frames, beside.frames) and np.array_equal(alone.trust, beside.trust)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1), (2, 300), (16, 700)])
def test_thin_frames_are_carried_too(shape: tuple[int, int]) -> None:
    source = np.random.default_rng(0).integers(0, 256, (3, *shape, 3), np.uint8)
    mask = np.zeros((3, *shape), np.bool_)
    mask[:, 0, 0] = True
    look = np.where(mask[0][..., None], 255 - source[0], source[0])
    assert np.array_equal(carry(source, [{0: look}], mask=mask)[0].frames[0], look)
    assert max(FlowMeter(Size(*shape), 320).grey(look).shape) <= 4 * 320


def test_what_an_edit_left_alone_is_the_sources_own_and_not_carried() -> None:
    shimmer = np.random.default_rng(3).integers(-12, 13, SOURCE.shape)
    source = (np.clip(SOURCE, 20, 235) + shimmer).astype(np.uint8)
    look = np.where(WHERE[0, ..., None], TRUTH[0], source[0])
    edited, unedited, later = carry(source, [{0: look}, {0: source[0]}, {0: source[0], FRAMES - 1: TRUTH[-1]}])
    beside = ~dilate(WHERE, 8)
    beside[0] = False
    assert error(edited.frames, source, beside) < 0.4 * error(unedited.frames, source, beside)
    beside[-1] = False
    assert error(later.frames, source, beside) < 0.4 * error(unedited.frames, source, beside)


def test_a_faint_change_is_carried_as_a_change() -> None:
    """The thing is lit more and more; the edit makes it a little bluer."""
    light = np.linspace(0, 40, FRAMES)[:, None, None, None].astype(np.uint8)
    source = np.clip(SOURCE, 40, 180) + light
    blue = np.where(WHERE[..., None], np.array([0, 0, 10], np.uint8), np.uint8(0))
    carried = carry(source, [{0: source[0] + blue[0]}])[0].frames
    inner = ~dilate(~WHERE, 6)
    assert error(carried, source + blue, inner) < 0.5 * error(carry(source, [{0: source[0]}])[0].frames, source, inner)


def test_what_comes_into_view_is_not_trusted_until_a_frame_shows_it() -> None:
    source = SOURCE.copy()
    source[4:] = pattern(9, SIDE, SIDE)  # another scene altogether
    alone = carry(source, [{0: source[0]}])[0]
    both = carry(source, [{0: source[0], 6: source[6]}])[0]
    assert alone.trust[5].mean() < 0.6
    assert both.trust[5].mean() > 0.95
    assert error(both.frames[5], source[5], np.ones((SIDE, SIDE), bool)) < 3


def test_progress_ends_at_its_total() -> None:
    told: list[tuple[int, int]] = []
    carry(SOURCE, [{0: SOURCE[0], 3: SOURCE[3]}], lambda *step: told.append(step))
    assert told[-1] == (2 * (FRAMES - 1), 2 * (FRAMES - 1))
    assert told == sorted(told)


def test_a_single_frame_is_its_own_answer() -> None:
    carried = carry(SOURCE[:1], [{0: TRUTH[0]}])[0]
    assert np.array_equal(carried.frames, TRUTH[:1])


def test_a_stretch_is_carried_to_as_it_is_in_the_whole_clip() -> None:
    """Key frames before and after the stretch enter with the way that was traced."""
    whole = carry(SOURCE, [{0: TRUTH[0], 6: TRUTH[6]}])[0]
    onward, backward = trace(iter(SOURCE), [3]), trace(iter(SOURCE[::-1]), [2])
    far = {-3: FarKey(SOURCE[0], onward[3]), 3: FarKey(SOURCE[6], backward[2])}
    stretch = carry(SOURCE[3:5], [{-3: TRUTH[0], 3: TRUTH[6]}], far=far)[0]
    assert np.abs(stretch.frames.astype(int) - whole.frames[3:5])[WHERE[3:5]].mean() < 3
    assert np.abs(stretch.trust - whole.trust[3:5]).mean() < 0.05
    assert error(stretch.frames, TRUTH[3:5], WHERE[3:5]) < 12


def test_what_was_made_counts_less_than_what_the_user_edited() -> None:
    """Both explain the source equally well; the user's colours stay."""
    grey = np.full_like(TRUTH[0], 128)
    look = {0: TRUTH[0], 2: grey}
    fair, held_back = (carry(SOURCE[:5], [look], made=made)[0] for made in ((), (2,)))
    where = WHERE[3]
    assert np.array_equal(held_back.frames[2], grey)
    assert error(held_back.frames[3:4], TRUTH[3:4], where[None]) < 0.6 * error(
        fair.frames[3:4], TRUTH[3:4], where[None]
    )


HAT = pattern(3, 12, 24)


def with_hat(frames: Frames, step: int = 4) -> tuple[Frames, Mask]:
    """The square with a hat on, over the ground, and where the hat is."""
    hatted, where = frames.copy(), np.zeros((FRAMES, SIDE, SIDE), bool)
    for index in range(FRAMES):
        left = 16 + step * index
        hatted[index, 18:30, left : left + 24] = HAT
        where[index, 18:30, left : left + 24] = True
    return hatted, where


HATTED, HAT_AT = with_hat(TRUTH)
LOOSE = dilate(WHERE | HAT_AT, 6)


def test_what_is_added_beside_a_thing_goes_with_it_and_leaves_no_trail() -> None:
    ridden, left_behind = (carry(SOURCE, [{0: HATTED[0]}], mask=mask)[0] for mask in (LOOSE, None))
    assert error(ridden.frames, HATTED, HAT_AT) < 0.3 * error(left_behind.frames, HATTED, HAT_AT)
    trail = HAT_AT[0] & ~HAT_AT[5] & ~WHERE[5]
    assert error(ridden.frames[5], GROUND, trail) < 0.3 * error(left_behind.frames[5], GROUND, trail)
    assert error(ridden.frames, HATTED, WHERE) < 1.1 * error(left_behind.frames, HATTED, WHERE)


def test_what_was_added_goes_with_the_thing_into_a_stretch_far_from_its_key_frame() -> None:
    onward, part = trace(iter(SOURCE), [3]), Things(SOURCE, LOOSE).part(0, HATTED[0])
    far = {-3: FarKey(SOURCE[0], onward[3], part)}
    stretch = carry(SOURCE[3:6], [{-3: HATTED[0]}], far=far, mask=LOOSE[3:6])[0]
    bare = carry(SOURCE[3:6], [{-3: HATTED[0]}], far=far | {-3: FarKey(SOURCE[0], onward[3])}, mask=LOOSE[3:6])[0]
    assert error(stretch.frames, HATTED[3:6], HAT_AT[3:6]) < 0.3 * error(bare.frames, HATTED[3:6], HAT_AT[3:6])


def test_a_part_is_only_what_lies_beside_a_thing_that_moves() -> None:
    things = Things(SOURCE, LOOSE)
    part = things.part(0, HATTED[0])
    assert part is not None
    assert (part.where & HAT_AT[0]).sum() > 0.9 * HAT_AT[0].sum()
    assert (part.thing & WHERE[0]).sum() > 0.9 * WHERE[0].sum()
    assert things.part(0, TRUTH[0]) is None, "a new look of the thing itself adds nothing"
    assert things.part(0, SOURCE[0]) is None
    still = np.repeat(SOURCE[:1], FRAMES, 0)
    assert Things(still, np.repeat(LOOSE[:1], FRAMES, 0)).part(0, HATTED[0]) is None
    assert Things(SOURCE[:1], LOOSE[:1]).part(0, HATTED[0]) is None


def test_a_thing_is_found_in_frames_that_are_large_and_behind_a_camera_that_pans() -> None:
    """Looked at in a smaller size, the ground moving by 3 pixels and the thing by 4 more."""
    ground, factor = pattern(4, SIDE, 2 * SIDE), 4
    source, where = np.empty_like(SOURCE), WHERE
    for index in range(FRAMES):
        source[index] = ground[:, 3 * index : 3 * index + SIDE]
        source[index][where[index]] = OLD.reshape(-1, 3)
    size = (factor * SIDE, factor * SIDE)
    large = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in source])
    loose, truth = (np.repeat(np.repeat(each, factor, 1), factor, 2) for each in (LOOSE, where))
    found = Things(large, loose).at(3)
    assert found is not None and found.shape == size
    assert (found & truth[3]).sum() > 0.8 * (found | truth[3]).sum()


def test_a_part_is_not_seen_where_its_thing_falls_apart() -> None:
    """Of limbs, cloth and a turning back no turn, scale and shift tells where something beside them goes."""
    thing, beside = np.zeros((2, SIDE, SIDE), np.bool_)
    thing[40:80, 30:70], beside[28:40, 40:60] = True, True
    look, part = pattern(9, SIDE, SIDE), Part(beside, beside, thing)
    together = grid(thing) - np.float32(3)
    apart = together + np.random.default_rng(0).normal(0, 6, together.shape).astype(np.float32)
    followed, lost = (ride(part, look, None, positions) for positions in (together, apart))
    assert followed is not None and lost is not None
    assert followed[1][33:41, 45:61].min() > 0.9 and followed[2] == 1 and lost[2] == 0


def test_a_part_is_told_from_a_slow_things_trail_by_the_frames_whose_mask_lies_elsewhere() -> None:
    """The thing comes down slowly from where its hat is now."""
    ground, count = pattern(6, 2 * SIDE, SIDE), 17
    source, mask = np.repeat(ground[None], count, 0), np.zeros((count, 2 * SIDE, SIDE), np.bool_)
    for index in range(count):
        top = 30 + 3 * index
        source[index, top : top + THING, 30 : 30 + THING] = OLD.reshape(THING, THING, 3)
        mask[index, top - 18 : top + THING + 6, 24 : 36 + THING] = True
    hatted, top = source[8].copy(), 30 + 3 * 8
    hatted[top - 12 : top, 36:60] = HAT
    part = Things(source, mask).part(8, hatted)
    assert part is not None and part.where[top - 10 : top - 2, 38:58].all()
