"""The cases of the propagation benchmark have a truth that differs from the source only where it should."""

from __future__ import annotations

import ast
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.propagation.cases import BACK, KINDS, PER_KIND, Case, all_cases, case_ids, make_case, scenes
from benchmarks.propagation.export import export
from benchmarks.propagation.render import Part, Scene, render
from loraedit.video import read_clip, read_image

FRAMES, SIDE = 3, 48
ROOT = Path(__file__).parents[2]


@lru_cache
def small(kind: str, number: int) -> Case:
    return make_case(kind, number, FRAMES, SIDE, SIDE)


def same(one: Case, other: Case) -> bool:
    return all(np.array_equal(getattr(one, each.name), getattr(other, each.name)) for each in fields(Case))


def test_there_are_eight_kinds_of_five_cases() -> None:
    assert len(KINDS) == 8
    assert PER_KIND == 5
    assert case_ids() == [(kind, number) for kind in KINDS for number in range(5)]
    assert next(all_cases(FRAMES, SIDE, SIDE)).name == "recolour-0"


@pytest.mark.parametrize(("kind", "number"), case_ids())
def test_every_case_is_edited_visibly_in_its_region_and_nowhere_outside_its_mask(kind: str, number: int) -> None:
    case = small(kind, number)
    change = np.abs(case.source.astype(int) - case.truth).mean(-1)
    assert change[~case.mask].max() == 0
    assert (case.region <= case.mask).all()
    assert case.mask.mean((1, 2)).max() < 0.65
    for frame in range(FRAMES):
        assert case.region[frame].mean() > 0.02
        assert change[frame][case.region[frame]].mean() > 25


@pytest.mark.parametrize("kind", KINDS[::3])
def test_a_case_gives_the_same_bytes_again(kind: str) -> None:
    assert same(small(kind, 1), make_case(kind, 1, FRAMES, SIDE, SIDE))


@pytest.mark.parametrize("kind", KINDS)
def test_the_object_is_large_enough_in_frame_1_and_never_touches_the_border(kind: str) -> None:
    before, after = scenes(kind, 2, FRAMES)
    for scene in (before, after):
        whole = render(scene, SIDE, SIDE).amodal[scene.edited_thing]
        assert 0.08 < whole[0].mean() < 0.3 or scene is after
        assert whole[:, [0, -1]].max() == whole[:, :, [0, -1]].max() == 0


def test_size_and_length_can_be_chosen_and_more_frames_sample_the_same_motion() -> None:
    case = make_case("pan", 0, 5, 40, 64)
    assert case.source.shape == case.truth.shape == (5, 40, 64, 3)
    assert case.mask.shape == case.region.shape == (5, 40, 64)
    short, long = (make_case("recolour", 0, frames, SIDE, SIDE) for frames in (3, 5))
    assert np.array_equal(short.truth[[0, 2]], long.truth[[0, 4]])


def with_black_back(scene: Scene) -> Scene:
    """Returns the scene with the hidden tile of every edited part painted black."""

    def blackened(part: Part) -> Part:
        if not part.edited:
            return part
        skin, side = part.skin.copy(), part.skin.shape[0]
        skin[:, BACK[part.solid] * side : (BACK[part.solid] + 1) * side] = 0
        return replace(part, skin=skin)

    things = [replace(thing, parts=tuple(blackened(part) for part in thing.parts)) for thing in scene.things]
    return replace(scene, things=tuple(things))


@pytest.mark.parametrize("number", range(PER_KIND))
def test_the_unseen_side_does_not_show_in_frame_1_and_fills_the_last_one(number: int) -> None:
    _, after = scenes("unseen", number, 2)
    truth, black = render(after, SIDE, SIDE), render(with_black_back(after), SIDE, SIDE)
    assert np.array_equal(truth.frames[0], black.frames[0])
    differs = (truth.frames[1] != black.frames[1]).any(-1)
    assert differs[truth.edited[1] > 0.5].mean() > 0.5


@pytest.mark.parametrize("number", range(PER_KIND))
def test_an_occluded_object_is_visible_in_frame_1_and_partly_hidden_later(number: int) -> None:
    _, after = scenes("occluded", number, 5)
    truth = render(after, SIDE, SIDE)
    shown = truth.visible[after.edited_thing].sum((1, 2)) / truth.amodal[after.edited_thing].sum((1, 2))
    assert shown[0] > 0.7
    assert 0.3 < shown.min() < 0.9


def test_a_case_comes_back_from_disk_bit_for_bit(tmp_path: Path) -> None:
    case = small("two", 0)
    export(case, tmp_path / case.name)
    read = {name: read_clip(tmp_path / case.name / name).frames for name in ("source", "truth", "mask", "region")}
    assert np.array_equal(read["source"], case.source)
    assert np.array_equal(read["truth"], case.truth)
    assert np.array_equal(read["mask"][..., 0] > 127, case.mask)
    assert np.array_equal(read["region"][..., 0] > 127, case.region)
    for name, frame in (("first", 0), ("last", -1)):
        assert np.array_equal(read_image(tmp_path / case.name / f"{name}_frame_edited.png"), case.truth[frame])


def test_nothing_is_shared_with_pretraining() -> None:
    files = sorted((ROOT / "benchmarks/propagation").glob("*.py"))
    assert len(files) > 5
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "pretrain" for name in names), f"{path}: {names}"
