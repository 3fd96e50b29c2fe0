"""Claims about carrying keyframes along the source's motion."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from loraedit.masks.shaping import dilate
from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.dis import DisEstimator
from loraedit.optical_flow.fields import pixel_grid
from loraedit.propagation.added_parts import AddedPart, attach
from loraedit.propagation.carry import CarriedKeyframes, carry_edits, carry_keyframes
from loraedit.propagation.foreground import ForegroundSeparator
from loraedit.propagation.keyframes import Keyframe
from loraedit.propagation.paths import FlowPath, trace_paths
from loraedit.types import Frames, Image, Mask, Size

FRAMES, SIDE, SQUARE = 7, 96, 36


def pattern(seed: int, height: int, width: int) -> Image:
    """Draws smooth noise, which gives the flow something to match."""
    rough = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def moving(texture: Image, ground: Image, step: int = 4) -> tuple[Frames, Mask]:
    """Moves a textured square to the right over a ground."""
    frames, where = np.repeat(ground[None], FRAMES, 0), np.zeros((FRAMES, SIDE, SIDE), bool)
    for index in range(FRAMES):
        left = 10 + step * index
        frames[index, 30 : 30 + SQUARE, left : left + SQUARE] = texture
        where[index, 30 : 30 + SQUARE, left : left + SQUARE] = True
    return frames, where


GROUND, OLD, NEW = pattern(0, SIDE, SIDE), pattern(1, SQUARE, SQUARE), pattern(2, SQUARE, SQUARE)
SOURCE, WHERE = moving(OLD, GROUND)
TRUTH, _ = moving(NEW, GROUND)


def error(frames: Frames, truth: Frames, where: Mask) -> float:
    return float(np.abs(frames.astype(float) - truth)[where].mean())


def source_keyframe(index: int, source: Frames = SOURCE) -> Keyframe:
    return Keyframe(index, source[index], source[index], is_source=True)


def carry_one(source: Frames, *keyframes: Keyframe, mask: Mask | None = None) -> CarriedKeyframes:
    named = {str(keyframe.index): keyframe for keyframe in keyframes}
    return carry_keyframes(source, named, [list(named)], mask)[0]


def test_an_edit_is_carried_with_the_object_it_sits_on() -> None:
    carried = carry_edits(SOURCE, {0: TRUTH[0]})
    still = np.repeat(TRUTH[:1], FRAMES, 0)
    assert error(carried.frames, TRUTH, WHERE) < 0.2 * error(still, TRUTH, WHERE)
    assert carried.trust[WHERE].mean() > 0.8


def test_keyframes_come_back_as_they_are_and_fully_trusted() -> None:
    carried = carry_edits(SOURCE, {2: TRUTH[2], 5: TRUTH[5]})
    for index in (2, 5):
        assert np.array_equal(carried.frames[index], TRUTH[index])
        assert (carried.trust[index] == 1).all()
    assert carried.frames.shape == SOURCE.shape and carried.frames.dtype == np.uint8
    assert carried.trust.min() >= 0 and carried.trust.max() <= 1


def test_several_choices_are_carried_the_same_way() -> None:
    keyframes = {"edited": Keyframe(0, TRUTH[0], SOURCE[0]), "source": source_keyframe(0)}
    edited, plain = carry_keyframes(SOURCE, keyframes, [["edited"], ["source"]])
    assert np.array_equal(edited.frames, carry_edits(SOURCE, {0: TRUTH[0]}).frames)
    assert np.array_equal(edited.trust, plain.trust), "a new texture stays on its surface"
    assert error(plain.frames, SOURCE, WHERE) < 12


def test_a_choice_is_carried_the_same_way_whatever_goes_beside_it() -> None:
    """A generated frame counts by how far the user's keyframes of its own choice are."""
    keyframes = {
        "first": Keyframe(0, TRUTH[0], SOURCE[0]),
        "generated": Keyframe(2, SOURCE[2], SOURCE[2], generated=True),
        "last": Keyframe(FRAMES - 1, TRUTH[-1], SOURCE[-1]),
    }
    choice = ["first", "generated"]
    alone, beside = (carry_keyframes(SOURCE, keyframes, choices)[0] for choices in ([choice], [choice, [*keyframes]]))
    assert np.array_equal(alone.frames, beside.frames) and np.array_equal(alone.trust, beside.trust)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1), (2, 300), (16, 700)])
def test_thin_frames_are_carried_too(shape: tuple[int, int]) -> None:
    source = np.random.default_rng(0).integers(0, 256, (3, *shape, 3), np.uint8)
    mask = np.zeros((3, *shape), np.bool_)
    mask[:, 0, 0] = True
    edited_frame = np.where(mask[0][..., None], 255 - source[0], source[0])
    assert np.array_equal(carry_edits(source, {0: edited_frame}, mask).frames[0], edited_frame)
    assert max(DisEstimator(Size(*shape), FlowOptions(min_side_px=320)).prepare(edited_frame).shape) <= 4 * 320


def test_what_an_edit_left_unchanged_stays_the_sources_own() -> None:
    shimmer = np.random.default_rng(3).integers(-12, 13, SOURCE.shape)
    source = (np.clip(SOURCE, 20, 235) + shimmer).astype(np.uint8)
    edited_frame = np.where(WHERE[0, ..., None], TRUTH[0], source[0])
    keyframes = {
        "edited": Keyframe(0, edited_frame, source[0]),
        "source": source_keyframe(0, source),
        "unchanged": Keyframe(0, source[0], source[0]),
        "last": Keyframe(FRAMES - 1, TRUTH[-1], source[-1]),
    }
    edited, unedited, later = carry_keyframes(source, keyframes, [["edited"], ["source"], ["unchanged", "last"]])
    beside = ~dilate(WHERE, 8)
    beside[0] = False
    assert error(edited.frames, source, beside) < 0.4 * error(unedited.frames, source, beside)
    beside[-1] = False
    assert error(later.frames, source, beside) < 0.4 * error(unedited.frames, source, beside)


def test_a_faint_change_is_carried_as_a_change() -> None:
    """The object gets brighter over time; the edit makes it a little bluer."""
    light = np.linspace(0, 40, FRAMES)[:, None, None, None].astype(np.uint8)
    source = np.clip(SOURCE, 40, 180) + light
    blue = np.where(WHERE[..., None], np.array([0, 0, 10], np.uint8), np.uint8(0))
    carried = carry_edits(source, {0: source[0] + blue[0]}).frames
    picture = carry_one(source, source_keyframe(0, source)).frames
    inner = ~dilate(~WHERE, 6)
    assert error(carried, source + blue, inner) < 0.5 * error(picture, source, inner)


def test_newly_visible_areas_are_not_trusted_until_a_keyframe_shows_them() -> None:
    source = SOURCE.copy()
    source[4:] = pattern(9, SIDE, SIDE)  # another scene altogether
    alone = carry_one(source, source_keyframe(0, source))
    both = carry_one(source, source_keyframe(0, source), source_keyframe(6, source))
    assert alone.trust[5].mean() < 0.6
    assert both.trust[5].mean() > 0.95
    assert error(both.frames[5], source[5], np.ones((SIDE, SIDE), bool)) < 3


@pytest.mark.parametrize("longest", [0.0, 30.0, 3000.0])
def test_a_path_is_packed_to_a_small_part_of_a_pixel(longest: float) -> None:
    flow = np.random.default_rng(0).uniform(-longest, longest, (5, 6, 2)).astype(np.float32)
    packed = FlowPath.packed(3, flow, direct=True)
    assert packed.steps.nbytes * 2 == flow.nbytes
    assert np.abs(packed.flow - flow).max() <= max(1 / 64, longest / 60_000)


def test_progress_ends_at_its_total() -> None:
    steps: list[tuple[int, int]] = []
    keyframes = {"0": source_keyframe(0), "3": source_keyframe(3)}
    carry_keyframes(SOURCE, keyframes, [["0", "3"]], on_step=lambda *step: steps.append(step))
    total = 2 * (FRAMES - 1) + FRAMES  # the flow to each keyframe, then the blending
    assert steps[-1] == (total, total)
    assert steps == sorted(steps)


def test_a_single_frame_is_its_own_answer() -> None:
    carried = carry_edits(SOURCE[:1], {0: TRUTH[0]})
    assert np.array_equal(carried.frames, TRUTH[:1])


def test_a_segment_is_carried_to_as_it_is_in_the_whole_clip() -> None:
    """Keyframes before and after the segment enter with the path that was traced."""
    whole = carry_edits(SOURCE, {0: TRUTH[0], 6: TRUTH[6]})
    onward, backward = trace_paths(iter(SOURCE), [3]), trace_paths(iter(SOURCE[::-1]), [2])
    before = Keyframe(-3, TRUTH[0], SOURCE[0], path=onward[3])
    after = Keyframe(3, TRUTH[6], SOURCE[6], path=backward[2])
    segment = carry_one(SOURCE[3:5], before, after)
    assert np.abs(segment.frames.astype(int) - whole.frames[3:5])[WHERE[3:5]].mean() < 3
    assert np.abs(segment.trust - whole.trust[3:5]).mean() < 0.05
    assert error(segment.frames, TRUTH[3:5], WHERE[3:5]) < 12


def test_what_was_generated_counts_less_than_what_the_user_edited() -> None:
    """Both explain the source equally well; the user's colours stay."""
    grey, first = np.full_like(TRUTH[0], 128), Keyframe(0, TRUTH[0], SOURCE[0])
    fair, held_back = (
        carry_one(SOURCE[:5], first, Keyframe(2, grey, SOURCE[2], generated=generated)) for generated in (False, True)
    )
    where = WHERE[3]
    assert np.array_equal(held_back.frames[2], grey)
    assert error(held_back.frames[3:4], TRUTH[3:4], where[None]) < 0.6 * error(
        fair.frames[3:4], TRUTH[3:4], where[None]
    )


HAT = pattern(3, 12, 24)


def separator(source: Frames, mask: Mask) -> ForegroundSeparator:
    return ForegroundSeparator(source, mask, FlowOptions())


def known_part(found: ForegroundSeparator, index: int, edited: Image) -> AddedPart | None:
    """Returns what an edit adds beside the object, if it is known to go with it."""
    shape = found.find_shape_change(index, edited)
    return shape.added if shape else None


def with_hat(frames: Frames, step: int = 4) -> tuple[Frames, Mask]:
    """Returns the square with a hat on, over the ground, and a mask of the hat."""
    hatted, where = frames.copy(), np.zeros((FRAMES, SIDE, SIDE), bool)
    for index in range(FRAMES):
        left = 16 + step * index
        hatted[index, 18:30, left : left + 24] = HAT
        where[index, 18:30, left : left + 24] = True
    return hatted, where


HATTED, HAT_AT = with_hat(TRUTH)
LOOSE = dilate(WHERE | HAT_AT, 6)


def test_what_is_added_beside_an_object_goes_with_it_and_leaves_no_trail() -> None:
    attached, left_behind = (carry_edits(SOURCE, {0: HATTED[0]}, mask) for mask in (LOOSE, None))
    assert error(attached.frames, HATTED, HAT_AT) < 0.3 * error(left_behind.frames, HATTED, HAT_AT)
    trail = HAT_AT[0] & ~HAT_AT[5] & ~WHERE[5]
    assert error(attached.frames[5], GROUND, trail) < 0.3 * error(left_behind.frames[5], GROUND, trail)
    assert error(attached.frames, HATTED, WHERE) < 1.1 * error(left_behind.frames, HATTED, WHERE)


def test_what_was_added_goes_with_the_object_into_a_segment_far_from_its_keyframe() -> None:
    path, shape = trace_paths(iter(SOURCE), [3])[3], separator(SOURCE, LOOSE).find_shape_change(0, HATTED[0])
    keyframe = Keyframe(-3, HATTED[0], SOURCE[0], path=path, shape=shape)
    segment = carry_one(SOURCE[3:6], keyframe, mask=LOOSE[3:6])
    bare = carry_one(SOURCE[3:6], replace(keyframe, shape=None), mask=LOOSE[3:6])
    assert error(segment.frames, HATTED[3:6], HAT_AT[3:6]) < 0.3 * error(bare.frames, HATTED[3:6], HAT_AT[3:6])


def test_a_part_is_only_what_lies_beside_an_object_that_moves() -> None:
    moving = separator(SOURCE, LOOSE)
    part = known_part(moving, 0, HATTED[0])
    assert part is not None
    assert (part.region & HAT_AT[0]).sum() > 0.9 * HAT_AT[0].sum()
    assert (part.object_mask & WHERE[0]).sum() > 0.9 * WHERE[0].sum()
    assert known_part(moving, 0, TRUTH[0]) is None, "a new texture of the object itself adds nothing"
    assert known_part(moving, 0, SOURCE[0]) is None
    still = np.repeat(SOURCE[:1], FRAMES, 0)
    assert known_part(separator(still, np.repeat(LOOSE[:1], FRAMES, 0)), 0, HATTED[0]) is None
    assert known_part(separator(SOURCE[:1], LOOSE[:1]), 0, HATTED[0]) is None


def test_an_object_is_found_in_frames_that_are_large_and_behind_a_camera_that_pans() -> None:
    """Works at a smaller size; the ground moves by 3 pixels a frame, and the object by 4 more."""
    ground, factor = pattern(4, SIDE, 2 * SIDE), 4
    source, where = np.empty_like(SOURCE), WHERE
    for index in range(FRAMES):
        source[index] = ground[:, 3 * index : 3 * index + SIDE]
        source[index][where[index]] = OLD.reshape(-1, 3)
    size = (factor * SIDE, factor * SIDE)
    large = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in source])
    loose, truth = (np.repeat(np.repeat(each, factor, 1), factor, 2) for each in (LOOSE, where))
    found = separator(large, loose).foreground(3)
    assert found is not None and found.shape == size
    assert (found & truth[3]).sum() > 0.8 * (found | truth[3]).sum()


def test_a_part_is_invisible_where_its_object_falls_apart() -> None:
    """Limbs, cloth and a turning body have no common rotation, scale and shift that a part could follow."""
    object_mask, beside = np.zeros((2, SIDE, SIDE), np.bool_)
    object_mask[40:80, 30:70], beside[28:40, 40:60] = True, True
    edited_frame, part = pattern(9, SIDE, SIDE), AddedPart(beside, beside, object_mask)
    together = pixel_grid(object_mask) - np.float32(3)
    apart = together + np.random.default_rng(0).normal(0, 6, together.shape).astype(np.float32)
    followed, lost = (attach(part, edited_frame, None, positions) for positions in (together, apart))
    assert followed is not None and lost is not None
    assert followed.place().alpha[33:41, 45:61].min() > 0.9 and followed.visibility == 1 and lost.visibility == 0


def test_frames_whose_mask_lies_elsewhere_separate_a_part_from_the_trail_of_a_slow_object() -> None:
    """The object moves down slowly from where its hat is now."""
    ground, count = pattern(6, 2 * SIDE, SIDE), 17
    source, mask = np.repeat(ground[None], count, 0), np.zeros((count, 2 * SIDE, SIDE), np.bool_)
    for index in range(count):
        top = 30 + 3 * index
        source[index, top : top + SQUARE, 30 : 30 + SQUARE] = OLD.reshape(SQUARE, SQUARE, 3)
        mask[index, top - 18 : top + SQUARE + 6, 24 : 36 + SQUARE] = True
    hatted, top = source[8].copy(), 30 + 3 * 8
    hatted[top - 12 : top, 36:60] = HAT
    part = known_part(separator(source, mask), 8, hatted)
    assert part is not None and part.region[top - 10 : top - 2, 38:58].all()


# ---- what the source's flow does not say -----------------------------------------------------------------------------


def test_trust_is_all_or_nothing_but_for_a_narrow_ramp() -> None:
    source = SOURCE.copy()
    source[4:] = pattern(9, SIDE, SIDE)  # another scene altogether
    trust = carry_one(source, source_keyframe(0, source)).trust
    assert ((trust > 0) & (trust < 1)).mean() < 0.1
    assert (trust[1:4] == 1).mean() > 0.7 and (trust[4:] == 0).mean() > 0.5


def in_front_of(grounds: Frames) -> Frames:
    """Returns the moving square in front of a background of its own for each frame."""
    return np.where(WHERE[..., None], SOURCE, grounds)


STREAM = np.stack([np.roll(pattern(4, SIDE, SIDE), 9 * index, 0) for index in range(FRAMES)])
"""Water behind the object: it flows down, while the frame around it (the camera) stands still."""
STREAM = np.where(dilate(LOOSE, 2)[..., None], STREAM, GROUND)


def test_new_pixels_beside_an_object_are_not_trusted_over_a_moving_background_and_a_new_texture_is() -> None:
    """Nobody knows how a new outline moves over water, which is not the same in any two frames."""
    source = in_front_of(STREAM)
    wider, repainted = source.copy(), np.where(WHERE[..., None], TRUTH, source)
    wider[0] = with_hat(repainted)[0][0]
    shaped, painted = (carry_edits(source, {0: edit[0]}, LOOSE) for edit in (wider, repainted))
    inner, later = WHERE & ~dilate(~WHERE, 4), slice(1, None)
    assert painted.trust[later][inner[later]].mean() > 0.9
    assert shaped.trust[later][inner[later]].mean() > 0.8, "the object's own surface is carried as before"
    assert shaped.trust[later][HAT_AT[later]].mean() < 0.2


def test_background_in_place_of_an_object_is_not_trusted() -> None:
    """The edit removes the lower half of the square; the source's flow would take the background along."""
    smaller, gone = TRUTH[0].copy(), WHERE.copy()
    gone[:, :48] = False
    smaller[gone[0]] = GROUND[gone[0]]
    carried, painted = (carry_edits(SOURCE, {0: edited}, LOOSE) for edited in (smaller, TRUTH[0]))
    assert carried.trust[4:][gone[4:] & ~dilate(~gone[4:], 3)].mean() < 0.2
    kept = WHERE & ~gone & ~dilate(~WHERE, 3) & ~dilate(gone, 3)
    assert carried.trust[4:][kept[4:]].mean() > 0.8
    assert painted.trust[4:][gone[4:] & ~dilate(~gone[4:], 3)].mean() > 0.9


def test_another_keyframe_shows_what_one_does_not_know() -> None:
    smaller, gone = TRUTH.copy(), WHERE.copy()
    gone[:, :48] = False
    smaller[gone] = np.broadcast_to(GROUND, TRUTH.shape)[gone]
    keyframes = {"0": Keyframe(0, smaller[0], SOURCE[0]), "6": Keyframe(6, TRUTH[6], SOURCE[6])}
    (both,) = carry_keyframes(SOURCE, keyframes, [["0", "6"]], LOOSE)
    inner = gone[2:3] & ~dilate(~gone[2:3], 4)
    assert error(both.frames[2:3], TRUTH[2:3], inner) < 0.5 * error(both.frames[2:3], smaller[2:3], inner)
