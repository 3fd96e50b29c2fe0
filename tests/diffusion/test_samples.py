"""Claims about the four samples of the method."""

from __future__ import annotations

import numpy as np
from scenes import Scene

from loraedit.diffusion.samples import (
    FILL,
    Guide,
    appearance_sample,
    exclude_frames,
    inference_condition,
    motion_sample,
    naive_sample,
    recolour,
)
from loraedit.video.scaling import to_float


def test_motion_sample_shows_frame_one_and_the_outside_and_asks_for_the_source(scene: Scene) -> None:
    source = to_float(scene.source)
    sample = motion_sample(source, scene.mask, "words")
    assert sample.target is source
    assert np.array_equal(sample.condition[0], source[0])
    assert not sample.edit_mask[0].any()
    assert np.array_equal(sample.edit_mask[1:], scene.mask[1:])
    assert np.all(sample.condition[1:][scene.mask[1:]] == FILL)
    assert np.array_equal(sample.condition[1:][~scene.mask[1:]], source[1:][~scene.mask[1:]])
    assert np.array_equal(sample.image, source[:1])


def test_naive_sample_shows_nothing_but_frame_one(scene: Scene) -> None:
    source = to_float(scene.source)
    sample = naive_sample(source, "")
    assert np.array_equal(sample.condition[0], source[0])
    assert np.all(sample.condition[1:] == FILL)
    assert sample.edit_mask[1:].all()


def test_inference_differs_from_motion_in_frame_one_alone(scene: Scene) -> None:
    source, edited = to_float(scene.source), to_float(scene.edited_first[None])
    learned = motion_sample(source, scene.mask, "")
    asked = inference_condition(source, edited, scene.mask, "")
    assert asked.target is None
    assert np.array_equal(asked.condition[0], edited[0])
    assert np.array_equal(asked.condition[1:], learned.condition[1:])
    assert np.array_equal(asked.edit_mask, learned.edit_mask)
    assert np.array_equal(asked.image, edited)


def test_appearance_sample_never_shows_the_edit_it_asks_for(scene: Scene) -> None:
    source, edited = to_float(scene.source[:1]), to_float(scene.edited_first[None])
    sample = appearance_sample(source, edited, scene.mask[:1], "blue")
    assert np.array_equal(sample.target, edited)
    assert np.all(sample.condition[scene.mask[:1]] == FILL)
    assert np.array_equal(sample.condition[~scene.mask[:1]], source[~scene.mask[:1]])
    assert np.array_equal(sample.image, source)


def test_a_guide_shows_in_the_edit_zone_alone_and_where_it_is_trusted(scene: Scene) -> None:
    source, edited = to_float(scene.source), to_float(scene.edited_first[None])
    guide = Guide(np.full_like(source, 0.5), np.ones(scene.mask.shape, bool))
    guide.trusted[2] = False
    for sample in (
        motion_sample(source, scene.mask, "", guide),
        inference_condition(source, edited, scene.mask, "", guide),
    ):
        zone = sample.edit_mask.copy()
        assert np.array_equal(sample.condition[1:][~zone[1:]], source[1:][~zone[1:]])
        assert np.all(sample.condition[2][zone[2]] == FILL)
        assert not sample.shown[2][zone[2]].any() and sample.shown[~zone].all()
        zone[2] = False
        assert (sample.condition[zone] == 0.5).all() and sample.shown[zone].all()


def test_fixed_frames_are_kept_as_whole_frames(scene: Scene) -> None:
    source, edited = to_float(scene.source), to_float(scene.edited_first[None])
    learned = motion_sample(source, scene.mask, "", fixed_frames=[3])
    asked = inference_condition(source, edited, scene.mask, "", fixed_frames={3: -edited})
    assert np.array_equal(learned.edit_mask, asked.edit_mask)
    assert not learned.edit_mask[3].any() and learned.edit_mask[2].any()
    assert np.array_equal(learned.condition[3], source[3])
    assert np.array_equal(asked.condition[3], -edited[0])


def test_making_a_sample_leaves_the_callers_arrays_alone(scene: Scene) -> None:
    source, mask = to_float(scene.source), scene.mask.copy()
    before = source.copy()
    motion_sample(source, mask, "")
    inference_condition(source, to_float(scene.edited_first[None]), mask, "")
    exclude_frames(mask)
    assert np.array_equal(source, before)
    assert np.array_equal(mask, scene.mask)


def test_recolouring_is_the_same_for_every_frame_and_follows_the_seed(scene: Scene) -> None:
    source = to_float(scene.source)
    changed = recolour(np.random.default_rng(4))(source)
    assert np.array_equal(changed, recolour(np.random.default_rng(4))(source))
    assert np.array_equal(changed[2:3], recolour(np.random.default_rng(4))(source[2:3]))
    assert changed.dtype == np.float32
    assert np.abs(changed).max() <= 1
    assert np.abs(changed - source).mean() > 0.1


def test_recolouring_a_grey_picture_keeps_it_grey() -> None:
    grey = np.full((1, 4, 4, 3), 0.3, np.float32)
    for seed in range(8):
        changed = recolour(np.random.default_rng(seed))(grey)
        assert np.ptp(changed, axis=-1).max() < 1e-5
