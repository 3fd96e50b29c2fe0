"""Claims about published sets: which cases a folder has, what is refused, and which jobs the cases become."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from published_sets import SETS, anyv2v_set, editverse_set, i2vedit_set, red_square

from benchmarks.published.cases import MAX_NAME, PublishedCase, case_name
from benchmarks.published.jobs import write_jobs
from benchmarks.published.run import FORMS, main
from loraedit.batch.jobs import read_jobs
from loraedit.errors import InputError
from loraedit.video import open_footage, read_image, write_image


def short(case: PublishedCase, folder: Path) -> tuple[str, str, str, str | None, str | None]:
    clip, edited = case.clip.relative_to(folder), case.edited_first.relative_to(folder)
    return case.name, str(clip), str(edited), case.prompt, case.source_prompt


# ---- the forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("within", ["", "demo"])
def test_anyv2vs_demo_is_read_with_the_prompts_of_its_configuration(tmp_path: Path, within: str) -> None:
    found = FORMS["anyv2v"](anyv2v_set(tmp_path) / within)
    edits = "demo/Red Square/edited_first_frame"
    assert [short(case, tmp_path) for case in found.cases] == [
        ("Red-Square-blue-square", "demo/Red Square.mp4", f"{edits}/blue square.png", "a blue square over noise", None),
        ("Red-Square-green-square", "demo/Red Square.mp4", f"{edits}/green square.png", "green square", None),
    ]
    assert found.left_out == ("'Your-Video-Name' has no image in edited_first_frame and is left out.",)


def test_i2vedits_items_are_read_in_both_layouts_and_have_no_prompt(tmp_path: Path) -> None:
    found = FORMS["i2vedit"](i2vedit_set(tmp_path))
    place = "item2/source_and_edits"
    assert [short(case, tmp_path) for case in found.cases] == [
        ("item2-blue", f"{place}/source.mp4", f"{place}/blue.png", None, None),
        ("item2-green-hat", f"{place}/source.mp4", f"{place}/green_hat.png", None, None),
        ("item10-blue", "item10/source.mp4", "item10/blue.png", None, None),
    ]
    assert found.left_out == ("'item3' has neither a source.mp4 nor an edited frame and is left out.",)


def test_editversebench_gives_the_entries_that_have_an_edited_first_frame(tmp_path: Path) -> None:
    found = FORMS["editverse"](editverse_set(tmp_path))
    texts = ("a blue square over noise", "a red square over noise")
    assert [short(case, tmp_path) for case in found.cases] == [
        ("0", "videos/1-2.mp4", "edited_first_frame/frame.png", *texts),
        ("2", "videos/1-2.mp4", "edited_first_frame/edited.mp4", *texts),
        ("3", "videos/1-2.mp4", "edited_first_frame/3.png", *texts),
    ]
    assert found.left_out == ("2 of 5 entries have no edited first frame and are left out.",)


def edit_json(change: Callable[[dict[str, dict[str, object]]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        entries = json.loads((folder / "test.json").read_text())
        change(entries)
        (folder / "test.json").write_text(json.dumps(entries))

    return spoil


@pytest.mark.parametrize(
    ("form", "spoil", "message"),
    [
        ("anyv2v", lambda folder: (folder / "demo/Red Square.mp4").unlink(), "There is no .*Red Square.mp4"),
        ("anyv2v", lambda folder: shutil.rmtree(folder / "demo/Red Square"), "no clip with an edited first frame"),
        ("anyv2v", lambda folder: shutil.rmtree(folder), "is not a folder"),
        (
            "anyv2v",
            lambda folder: (folder / "i2vgen-xl/configs/group_pnp_edit/group_config.json").write_text("[{}]"),
            "not a list of edits",
        ),
        ("i2vedit", lambda folder: (folder / "item10/source.mp4").unlink(), "There is no .*item10/source.mp4"),
        ("i2vedit", lambda folder: (folder / "item10/blue.png").unlink(), "no edited first frame"),
        (
            "i2vedit",
            lambda folder: shutil.copy(folder / "item10/blue.png", folder / "item10/Blue.jpg"),
            "would both be case 'item10-[bB]lue'",
        ),
        ("editverse", lambda folder: (folder / "test.json").unlink(), "neither test.json nor EditVerseBench.json"),
        ("editverse", lambda folder: (folder / "test.json").write_text("[1]"), "not an object of entries"),
        ("editverse", lambda folder: (folder / "test.json").write_text("{"), "cannot be read as JSON"),
        ("editverse", lambda folder: (folder / "videos/1-2.mp4").unlink(), "download_source_video.py"),
        ("editverse", lambda folder: (folder / "edited_first_frame/frame.png").unlink(), "first frame of entry 0"),
        ("editverse", edit_json(lambda entries: entries["3"].pop("<video1>")), "entry 3 .* no clip"),
        ("editverse", edit_json(lambda entries: entries["3"].update(target_prompt=3)), "of entry 3 is not text"),
        ("editverse", edit_json(lambda entries: [entries.pop(key) for key in "023"]), "No entry of"),
    ],
)
def test_a_folder_that_is_not_of_the_form_is_refused_before_anything_is_made(
    tmp_path: Path, form: str, spoil: Callable[[Path], object], message: str
) -> None:
    folder = SETS[form](tmp_path / "set")
    spoil(folder)
    with pytest.raises(InputError, match=message):
        FORMS[form](folder)
    with pytest.raises(SystemExit, match="published: "):
        main([str(folder), "--form", form, "--work", str(tmp_path / "work")])
    assert not (tmp_path / "work").exists()


def test_a_name_of_a_case_can_name_a_job_whatever_the_files_are_called() -> None:
    assert case_name("An Old Man", "turn_his hair (white)!") == "An-Old-Man-turn-his-hair-white"
    long, other = case_name("a" * 90, "x"), case_name("a" * 90, "y")
    assert len(long) == len(other) == MAX_NAME and long != other
    assert case_name("帽子") != case_name("眼镜")


# ---- jobs ------------------------------------------------------------------------------------------------------------


def test_jobs_say_what_the_cases_say_and_leave_the_rest_to_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "extra.safetensors").write_bytes(b"weights")
    cases = FORMS["editverse"](editverse_set(tmp_path / "set")).cases
    hostile = 'tab\t, quote ", back\\slash, 帽子 😀\x7f\n'
    cases = (replace(cases[0], prompt=hostile), replace(cases[2], prompt=None, references={2: cases[2].edited_first}))
    settings = {"model": "nano", "steps": 3, "extra_lora": ["extra.safetensors:0.5"]}
    batch, (first, second) = read_jobs(write_jobs(cases, settings, tmp_path / "work", None)[0])
    assert batch.folder == str(tmp_path / "work/batch")
    assert first.settings["prompt"] == hostile and "prompt" not in second.settings
    assert first.settings["source_prompt"] == "a red square over noise"
    assert first.settings["steps"] == 3 and first.settings["fit"] and first.settings["model"] == "nano"
    assert first.settings["extra_lora"] == (f"{tmp_path / 'extra.safetensors'}:0.5",)
    assert first.source == str(tmp_path / "set/videos/1-2.mp4") and first.out == "edited.mkv"
    assert second.references == {2: str(tmp_path / "set/edited_first_frame/3.png")}


def test_the_first_frame_of_a_video_stands_for_an_edited_first_frame(tmp_path: Path) -> None:
    cases = FORMS["editverse"](editverse_set(tmp_path / "set")).cases
    _, jobs = read_jobs(write_jobs(cases, {"model": "nano"}, tmp_path / "work", None)[0])
    made = read_image(Path(jobs[1].first_frame))
    assert np.array_equal(made, next(open_footage(cases[1].edited_first).rgb(0, 1)))


def test_a_longer_clip_is_sampled_evenly_and_a_shorter_one_is_left_alone(tmp_path: Path) -> None:
    case = FORMS["i2vedit"](i2vedit_set(tmp_path / "set")).cases[0]
    whole = open_footage(case.clip)
    sources = {}
    for frames in (3, len(whole)):
        _, (job,) = read_jobs(write_jobs([case], {"model": "nano"}, tmp_path / "work", frames)[0])
        sources[frames] = job.source
    assert sources[5] == str(case.clip)
    sampled, every = open_footage(Path(sources[3])), list(whole.rgb())
    assert all(np.array_equal(a, every[index]) for a, index in zip(sampled.rgb(), (0, 2, 4), strict=True))
    assert sampled.fps == whole.fps * 3 / 5
    with pytest.raises(InputError, match="--frames is 0"):
        write_jobs([case], {"model": "nano"}, tmp_path / "work", 0)


def test_an_edit_of_the_whole_frame_gets_the_whole_frame_as_its_mask(tmp_path: Path) -> None:
    cases = FORMS["i2vedit"](i2vedit_set(tmp_path / "set")).cases
    write_image(cases[0].edited_first, 255 - red_square()[0])
    file, notes = write_jobs(cases, {"model": "nano"}, tmp_path / "work", None)
    assert [job.mask for job in read_jobs(file)[1]] == ["0,0,64,48", None, None]
    assert notes == ["The edit of item2-blue changes the whole frame, so its mask is the whole frame."]
    write_image(cases[1].edited_first, next(open_footage(cases[1].clip).rgb(0, 1)))
    with pytest.raises(InputError, match=r"Case 'item2-green-hat': .* identical"):
        write_jobs(cases, {"model": "nano"}, tmp_path / "work", None)
