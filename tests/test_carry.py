"""Claims about carrying edited frames along the source's motion."""

from __future__ import annotations

import cv2
import numpy as np

from loraedit.carry import FarKey, carry, trace
from loraedit.types import Frames, Image, Mask

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
