"""Claims about several things edited at once: targets, each in a window of its own, one made on top of the other."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from forked import contents
from scenes import Scene, make_scene

import loraedit
from loraedit.editing.segment_inputs import training_input
from loraedit.editing.target_clip import open_target_clip
from loraedit.job.edits import object_of
from loraedit.job.prepare import Job, prepare
from loraedit.job.request import EditRequest
from loraedit.job.targets import EditTarget, Texts, edit_targets
from loraedit.job.window import Window, choose_window
from loraedit.lora.export import export
from loraedit.masks.tube import MaskTube
from loraedit.runs.kept import KeptObject
from loraedit.settings import make_settings
from loraedit.types import Clip, Image, Plane, Progress
from loraedit.video import read_clip


def two_things(frames: int = 5) -> tuple[Scene, list[dict[str, object]]]:
    """The scene with a second edit in its lower right corner; both are objects with a reference in the last frame."""
    scene = make_scene(frames)
    still = np.zeros_like(scene.mask)
    still[:, 26:34, 30:42] = True
    edited = scene.edited_first.copy()
    edited[28:32, 32:40] = (250, 250, 0)
    looks = []
    for colour, mask in (((40, 60, 220), scene.mask), ((250, 250, 0), still)):
        look = np.full_like(edited, 255)  # an edit of everything, of which the object's own mask alone counts
        look[mask[-1]] = colour
        looks.append(look)
    objects: list[dict[str, object]] = [
        {"name": "square", "mask": scene.mask, "references": {frames - 1: looks[0]}, "prompt": "a blue square"},
        {"name": "corner", "mask": still, "references": {frames - 1: looks[1]}, "prompt": "a yellow corner"},
    ]
    return Scene(scene.source, edited, scene.mask | still), objects


def job_of(
    scene: Scene, model: Path, objects: list[dict[str, object]], references: dict[int, Image] | None = None,
    **settings: object,
) -> Job:  # fmt: skip
    given = [object_of(each) for each in objects]
    chosen = make_settings({"model": str(model), "crop": "off", "fill": "carry", **settings})
    return prepare(EditRequest(scene.source, scene.edited_first, None, references or {}, given, chosen))


def squares(*lefts: int, side: int = 12) -> list[Plane]:
    """Planes of 64 x 160, each with a square."""
    planes = []
    for left in lefts:
        plane = np.zeros((64, 160), bool)
        plane[20 : 20 + side, left : left + side] = True
        planes.append(plane)
    return planes


def grey(level: int) -> Image:
    return np.full((64, 160, 3), level, np.uint8)


def targets(planes: list[Plane], looks: list[dict[int, int]], everything: dict[int, int]) -> tuple[EditTarget, ...]:
    """The targets of still things in a clip of three black frames, all edits being of one grey."""
    source = Clip(np.stack([grey(0)] * 3), Fraction(10))
    objects = [
        KeptObject(str(number), MaskTube([plane] * 3), {index: grey(level) for index, level in look.items()}, "")
        for number, (plane, look) in enumerate(zip(planes, looks, strict=True))
    ]
    edited = {index: grey(level) for index, level in everything.items()}
    whole = MaskTube([np.logical_or.reduce(planes)] * 3)
    return edit_targets(edited, objects, whole, source, windowed, Texts("", ""))


def windowed(mask: MaskTube) -> Window:
    return choose_window(mask, "fixed", 0.5)


# ---- targets ---------------------------------------------------------------------------------------------------------


def test_each_thing_has_a_window_of_its_own_as_small_as_if_it_were_alone() -> None:
    planes = squares(10, 120)
    both = targets(planes, [{}, {}], {0: 9})
    for plane, target in zip(planes, both, strict=True):
        (alone,) = targets([plane], [{}], {0: 9})
        assert target.window.size == alone.window.size and np.array_equal(target.window.corners, alone.window.corners)
        assert np.array_equal(target.mask[0], plane) and target.mask[0][target.window.at(0)].sum() == plane.sum()


def test_of_an_edited_frame_a_layer_has_all_but_what_is_the_others_alone() -> None:
    first, second = squares(40, 48)  # which overlap
    for target, other in zip(
        targets([first, second], [{}, {}], {0: 9}), ((second & ~first), (first & ~second)), strict=True
    ):
        where = target.window.at(0)
        below = grey(5)[where]
        assert np.array_equal(target.keyframe(0, below)[..., 0], np.where(other[where], 5, 9))


def test_a_reference_of_one_thing_counts_where_it_changes_it_and_undoes_nothing_below() -> None:
    first, second = squares(40, 48)
    _, upper = targets([first, second], [{}, {2: 7}], {0: 9})
    _, unchanged = targets([first, second], [{}, {2: 0}], {0: 9})
    where, below = upper.window.at(2), grey(5)[upper.window.at(2)]
    assert np.array_equal(upper.keyframe(2, below)[..., 0], np.where(second[where], 7, 5))
    assert np.array_equal(unchanged.keyframe(2, below), below)


def test_a_reference_of_everything_is_learnt_in_each_layer_that_is_there(checkpoint: Path) -> None:
    scene, (square, corner) = two_things()
    gone = corner["mask"].copy()  # type: ignore[attr-defined]
    gone[3:] = False
    kept = [{**square, "references": {}}, {**corner, "mask": gone, "references": {}}]
    job = job_of(scene, checkpoint, kept, references={1: scene.source[1] // 2, 3: scene.source[3] // 2})
    assert [target.references for target in job.targets] == [[1, 3], [1]]


def test_an_edit_without_objects_is_one_target_of_the_frames_as_they_are() -> None:
    scene = make_scene()
    (target,) = edit_targets(
        {0: scene.edited_first}, (), MaskTube(scene.mask), Clip(scene.source, Fraction(10)), windowed, Texts("", "")
    )
    assert np.array_equal(target.keyframe(0, np.zeros_like(scene.edited_first)), scene.edited_first)
    assert np.array_equal(np.asarray(target.mask), scene.mask)


def test_references_of_an_object_are_learnt_in_the_order_in_which_they_are_given(checkpoint: Path) -> None:
    scene, (square, _) = two_things()
    looks = {4: scene.source[4] // 2, 2: scene.source[2] // 2}
    job = job_of(scene, checkpoint, [{**square, "references": looks}])
    assert job.targets[0].references == [4, 2]
    assert job.objects[0].provenance(0)["reference_order"] == [4, 2]


def test_references_of_objects_are_learnt_in_their_own_layers(checkpoint: Path) -> None:
    scene, (square, corner) = two_things()
    job = job_of(scene, checkpoint, [square, {**corner, "references": {}}], prompt="night")
    assert [target.references for target in job.targets] == [[4], []] and job.references == {}
    assert job.settings.prompt == "night, a blue square, a yellow corner"
    upper, lower = (training_input(open_target_clip(job, target), job.segments[0]) for target in job.targets)
    assert list(upper.references) == [4] and not (upper.reference_masks[4][0] & ~upper.mask[4]).any()
    assert not lower.references


def test_what_is_edited_in_one_thing_does_not_bleed_into_another(checkpoint: Path) -> None:
    """The motion is learnt from the source, so another edit of the corner leaves the square as it is to the byte."""
    scene, (square, corner) = two_things()
    objects = [{**square, "references": {}}, {**corner, "references": {}}]
    other = scene.edited_first.copy()
    other[28:32, 32:40] = (10, 250, 10)
    one, two = (
        loraedit.edit(scene.source, first, objects=objects, model=str(checkpoint), steps=2, fill="carry").clip.frames
        for first in (scene.edited_first, other)
    )
    inside = np.asarray(corner["mask"])
    assert np.array_equal(one[~inside], two[~inside]) and not np.array_equal(one[inside], two[inside])


def test_interrupted_in_any_layer_and_started_again_it_ends_with_the_same_bytes(
    checkpoint: Path, tmp_path: Path
) -> None:
    scene, objects = two_things()

    def run(name: str, progress: Progress | None) -> None:
        loraedit.edit(
            scene.source, scene.edited_first, objects=objects, model=str(checkpoint), steps=2, sampling_steps=4,
            crop="off", run=tmp_path / name, progress=progress,
        )  # fmt: skip

    def until(moment: int) -> Progress:
        """Up to the so manieth step of sampling; each target has four."""

        def progress(phase: str, done: int, *_: object) -> None:
            if phase == "sample" and done == moment:
                raise KeyboardInterrupt

        return progress

    run("whole", None)
    for moment in (2, 6):
        with pytest.raises(KeyboardInterrupt):
            run("parts", until(moment))
    run("parts", None)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


# ---- the whole way ---------------------------------------------------------------------------------------------------


def test_one_object_is_the_mask_and_the_references(checkpoint: Path) -> None:
    scene, (square, _) = two_things()
    look = np.where(scene.mask[-1][..., None], square["references"][4], scene.source[-1])  # type: ignore[index]
    square = {**square, "mask": scene.mask, "references": {4: look}}
    named = loraedit.edit(
        scene.source, scene.edited_first, objects=[square], prompt="red", model=str(checkpoint), steps=2,
        sampling_steps=6,
    )  # fmt: skip
    plain = loraedit.edit(
        scene.source, scene.edited_first, scene.mask, references={4: look}, prompt="red, a blue square",
        model=str(checkpoint), steps=2, sampling_steps=6,
    )  # fmt: skip
    assert np.array_equal(named.clip.frames, plain.clip.frames) and named.losses == plain.losses


def test_objects_are_edited_together_and_recorded_and_each_learnt_as_if_it_were_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    scene, (square, corner) = two_things()
    objects = [{**square, "prompt": ""}, {**corner, "prompt": "", "references": {}}]
    alone, together = (
        loraedit.edit(scene.source, first, objects=some, run=tmp_path / name, model=str(checkpoint), steps=1)
        for name, some, first in (
            ("alone", objects[:1], make_scene().edited_first), ("run", objects, scene.edited_first),
        )
    )  # fmt: skip
    frames = read_clip(tmp_path / "run/frames").frames
    assert together.outside_exact and np.array_equal(frames[~scene.mask], scene.source[~scene.mask])
    named = json.loads((tmp_path / "run/settings.json").read_text())["inputs"]["objects"]
    assert set(named) == {"square", "corner"} and list(named["square"]["references"]) == ["4"]
    assert together.lora_files[0].name == alone.lora_files[0].name
    assert together.lora_files[0].read_bytes() == alone.lora_files[0].read_bytes()
    exported = export(tmp_path / "run", tmp_path / "mine.safetensors", "diffusers")
    assert [path.name for path in exported] == ["mine-0.safetensors", "mine-1.safetensors"]


def test_objects_that_cannot_be_used_are_refused(checkpoint: Path) -> None:
    scene, (square, corner) = two_things()
    nowhere = {**corner, "mask": np.roll(corner["mask"], -25, 1)}  # type: ignore[call-overload]
    unedited, beside = {**nowhere, "references": {}}, {**nowhere, "references": {4: scene.source[4]}}
    refused: list[tuple[list[dict[str, object]], dict[str, object], str]] = [
        ([square, unedited], {}, "is not edited"),
        ([square, beside], {}, "changes nothing inside that object's mask"),
        ([square, corner], {"prompt": "auto", "captioner": "."}, "Leave out their prompts"),
        ([{"name": "a", "mask": scene.mask, "colour": "red"}], {}, "no 'colour'"),
        ([{"name": "a"}], {}, "no mask"),
    ]
    for objects, settings, words in refused:
        with pytest.raises(loraedit.InputError, match=words):
            job_of(scene, checkpoint, objects, **settings)
