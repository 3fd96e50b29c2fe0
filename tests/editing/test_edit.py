"""Claims about a whole edit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scenes import EXAMPLE, Scene, make_scene
from tiny_cards import CARRYING

import loraedit
from loraedit.editing import EditResult
from loraedit.lora.export import export
from loraedit.types import Clip, Frames
from loraedit.video import read_clip, read_image, write_clip, write_footage


def edit(scene: Scene, model: Path | str, **settings: object) -> EditResult:
    """Edits with few sampling steps, unless the settings say otherwise."""
    return loraedit.edit(
        scene.source, scene.edited_first, scene.mask, model=str(model), **{"sampling_steps": 6, **settings}
    )


@pytest.mark.parametrize("name", ["plain", "wan21", "wan22", "nano-like"])
@pytest.mark.parametrize("lora", ["motion", "naive", "none"])
def test_every_family_and_mode_keeps_the_outside_and_changes_the_inside(
    checkpoints: dict[str, Path], name: str, lora: str, scene: Scene
) -> None:
    result = edit(scene, checkpoints[name], lora=lora, steps=2)
    frames = result.clip.frames
    assert result.outside_exact
    assert np.array_equal(frames[~scene.mask], scene.source[~scene.mask])
    assert (frames[scene.mask] != scene.source[scene.mask]).any()
    assert len(result.losses) == (0 if lora == "none" else 2 * (2 if name == "wan22" else 1))


def test_the_first_frame_is_the_users_own_inside_the_mask(checkpoint: Path, scene: Scene) -> None:
    frames = edit(scene, checkpoint, steps=1, feather_px=0).clip.frames
    assert np.array_equal(frames[0], scene.edited_first)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 33, 41), (2, 17, 64), (6, 40, 23), (9, 128, 20)])
def test_any_length_and_size_comes_out_as_it_went_in(checkpoint: Path, frames: int, height: int, width: int) -> None:
    rng = np.random.default_rng(frames)
    source = rng.integers(0, 256, (frames, height, width, 3), np.uint8)
    mask = np.zeros((frames, height, width), bool)
    mask[:, 2:9, 3:12] = True
    edited = source[0].copy()
    edited[3:8, 4:11] = 255 - edited[3:8, 4:11]
    result = loraedit.edit(source, edited, mask, model=str(checkpoint), steps=1)
    assert result.clip.frames.shape == source.shape
    assert np.array_equal(result.clip.frames[~mask], source[~mask])


def test_same_seed_same_bytes_and_another_seed_another_result(checkpoint: Path, scene: Scene) -> None:
    first, again, other = (edit(scene, checkpoint, steps=2, seed=seed).clip.frames for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_reference_adds_as_many_steps_and_changes_the_result(checkpoint: Path, scene: Scene) -> None:
    reference = scene.source[-1].copy()
    reference[scene.mask[-1]] = 255
    without = edit(scene, checkpoint, steps=3)
    with_it = edit(scene, checkpoint, steps=3, references={4: reference})
    assert (len(without.losses), len(with_it.losses)) == (3, 6)
    assert not np.array_equal(without.clip.frames, with_it.clip.frames)


@pytest.mark.usefixtures("coarse_flow")
def test_both_experts_are_trained_whatever_the_strength(
    checkpoints: dict[str, Path], scene: Scene, tmp_path: Path
) -> None:
    """What the carried keyframes do not show starts from pure noise, so both experts sample."""
    run, settings = tmp_path / "run", {**CARRYING, "colour_variants": 1, "steps": 1, "store": "none", "strength": 0.8}
    result = edit(scene, checkpoints["wan22"], run=run, **settings)
    assert result.outside_exact and len(result.losses) == 2
    assert [path.name for path in export(run, tmp_path / "y.safetensors", "comfyui")] == [
        "y-high.safetensors", "y-low.safetensors",
    ]  # fmt: skip
    again = edit(scene, checkpoints["wan22"], run=run, **{**settings, "strength": 1.0})
    assert again.lora_files == result.lora_files
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [event["lora"].split("-")[1] for event in log if event["event"] == "trained"] == [
        "transformer", "transformer_2",
    ]  # fmt: skip


def test_colour_variants_train_on_recoloured_clips_too(checkpoint: Path, scene: Scene) -> None:
    assert (
        edit(scene, checkpoint, steps=3, colour_variants=3).losses
        != edit(scene, checkpoint, steps=3, colour_variants=1).losses
    )


@pytest.mark.usefixtures("coarse_flow")
def test_carried_frames_change_what_is_generated_and_naive_ignores_them(checkpoint: Path, scene: Scene) -> None:
    grey, carried, detailed, naive, naive_grey = (
        edit(scene, checkpoint, steps=2, **settings).clip.frames
        for settings in (
            {"fill": "grey"}, {"fill": "carry"}, {"fill": "carry", "restore_detail": True},
            {"fill": "carry", "lora": "naive"}, {"fill": "grey", "lora": "naive"},
        )
    )  # fmt: skip
    assert not np.array_equal(grey, carried)
    assert not np.array_equal(carried, detailed)
    assert np.array_equal(naive, naive_grey)


def test_every_choice_of_sampling_and_references_changes_the_result(checkpoint: Path, scene: Scene) -> None:
    reference = scene.source[-1].copy()
    reference[scene.mask[-1]] = 255
    plain, *others = (
        edit(scene, checkpoint, steps=2, references={4: reference}, **{"reference_steps": 0, **settings}).clip.frames
        for settings in (
            {},
            {"strength": 0.7},
            {"blend_latents": True},
            {"condition_on_references": True},
            {"reference_steps": 2},
        )
    )
    assert all(not np.array_equal(plain, other) for other in others)


@pytest.mark.usefixtures("coarse_flow")
def test_a_low_strength_stays_near_what_is_shown(checkpoint: Path, scene: Scene) -> None:
    """At strength 1 all is made of noise; near 0 the model has the last step alone where something is shown."""

    def made(strength: float, seed: int) -> Frames:
        settings = {"lora": "motion", "steps": 1, "fill": "carry", "sampling_steps": 8, "restore_detail": False}
        return edit(scene, checkpoint, strength=strength, seed=seed, **settings).clip.frames

    near, far = (np.abs(made(strength, 1).astype(int) - made(strength, 2)).mean() for strength in (0.05, 1.0))
    assert near < 0.5 * far


@pytest.mark.parametrize("crop", ["fixed", "follow", "auto", "off"])
def test_every_window_gives_the_whole_frame_back(checkpoint: Path, crop: str) -> None:
    scene = make_scene(frames=5, height=70, width=140)
    result = edit(scene, checkpoint, steps=1, crop=crop, references={3: scene.edited_first[::-1].copy()})
    assert result.clip.frames.shape == scene.source.shape
    assert np.array_equal(result.clip.frames[~scene.mask], scene.source[~scene.mask])
    assert (result.clip.frames[scene.mask] != scene.source[scene.mask]).mean() > 0.5


def test_a_prior_is_where_the_motion_lora_starts(checkpoint: Path, scene: Scene, tmp_path: Path) -> None:
    prior = edit(scene, checkpoint, steps=4, lr=0.1, rank=2, run=str(tmp_path / "run")).lora_files[0]
    model = shutil.copytree(checkpoint, tmp_path / "model")
    (model / "prior").mkdir()
    shutil.copy(prior, model / "prior/transformer.safetensors")
    at_once = edit(scene, model, steps=0, prior=True)
    assert at_once.losses == []
    assert np.array_equal(at_once.clip.frames, edit(scene, model, steps=0, prior=True, rank=5).clip.frames)
    assert np.array_equal(at_once.clip.frames, edit(scene, checkpoint, steps=4, lr=0.1, rank=2).clip.frames)
    assert edit(scene, model, steps=1, prior=True).losses != edit(scene, model, steps=1).losses
    with pytest.raises(loraedit.InputError, match="has rank 2, more than --rank 1"):
        edit(scene, model, steps=1, prior=True, rank=1)
    (model / "prior/transformer.safetensors").write_bytes(b"no LoRA")
    with pytest.raises(loraedit.ModelError, match="not a safetensors file"):
        edit(scene, model, steps=1)


def test_a_prior_that_is_not_there_and_no_steps_without_one_are_refused(checkpoint: Path, scene: Scene) -> None:
    with pytest.raises(loraedit.InputError, match="includes no prior"):
        edit(scene, checkpoint, prior=True)
    with pytest.raises(loraedit.InputError, match="0 steps does nothing"):
        edit(scene, checkpoint, steps=0)


@pytest.mark.usefixtures("coarse_flow")
def test_the_papers_recipe_changes_the_method_and_leaves_the_models_pace(checkpoint: Path, scene: Scene) -> None:
    settings = {"fill": "carry", "restore_detail": True, "colour_variants": 3, "edit_weight": 5.0}
    call = {"steps": 3, "mask_boxes": False}
    paper = edit(scene, checkpoint, recipe="paper", **call)
    assert paper.losses == edit(scene, checkpoint, **call).losses  # the tiny card has nothing beyond the paper
    assert paper.losses != edit(scene, checkpoint, recipe="paper", **call, **settings).losses


def test_the_run_folder_holds_everything_and_is_reused(checkpoint: Path, scene: Scene, tmp_path: Path) -> None:
    out, run = tmp_path / "result.mkv", tmp_path / "run"
    clip = Clip(scene.source, Fraction(25, 2))
    call = {"model": str(checkpoint), "out": out, "run": run, "steps": 2}
    first = loraedit.edit(clip, scene.edited_first, scene.mask, **call)
    assert np.array_equal(read_clip(out).frames, first.clip.frames)
    assert read_clip(out).fps == Fraction(25, 2)
    assert np.array_equal(read_clip(run / "frames").frames, first.clip.frames)
    assert read_image(run / "sheet.png").size > 0
    assert json.loads((run / "settings.json").read_text())["settings"]["steps"] == 2
    assert (run / "loss.png").exists()
    assert len((run / "log.jsonl").read_text().splitlines()) >= 4
    again = loraedit.edit(clip, scene.edited_first, scene.mask, **call)
    assert again.reused == ["train motion", "sample"]
    assert np.array_equal(again.clip.frames, first.clip.frames)


def test_another_first_frame_prompt_seed_or_sampling_reuses_the_motion_lora(
    checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    call = {"run": tmp_path / "run", "steps": 2, "source_prompt": "a coat"}
    first = edit(scene, checkpoint, **call)
    other = scene.edited_first.copy()
    other[12:20, 10:16] = 250
    second = loraedit.edit(scene.source, other, scene.mask, model=str(checkpoint), prompt="a red coat", **call)
    assert second.reused == ["train motion"]
    assert second.lora_files[0] == first.lora_files[0]
    assert edit(scene, checkpoint, sampling_steps=5, **call).reused == ["train motion"]
    assert edit(scene, checkpoint, seed=9, **call).reused == ["train motion"]
    assert edit(scene, checkpoint, references={4: scene.source[-1] // 2}, **call).reused == ["train motion"]
    assert edit(scene, checkpoint, rank=3, **call).reused == []
    assert edit(scene, checkpoint, train_seed=1, **call).reused == []


def test_a_negative_prompt_without_guidance_is_noted_and_samples_nothing_again(
    checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    call = {"run": tmp_path / "run", "steps": 1, "prompt": "a", "source_prompt": "a"}
    edit(scene, checkpoint, **call)
    again = edit(scene, checkpoint, negative_prompt="blurry", **call)
    assert again.reused == ["train motion", "sample"]
    assert [note for note in again.notes if "no effect at --guidance 1" in note]
    one, two = (edit(scene, checkpoint, guidance=3.0, negative_prompt=text, **call) for text in ("blurry", "dark"))
    assert two.reused == ["train motion"] and two.notes == one.notes == []


@pytest.mark.parametrize("kind", ["cache/latents-*", "cache/clip-*", "cache/embedding-*", "lora/*", "checkpoints/*"])
def test_a_damaged_file_of_a_run_is_replaced(checkpoint: Path, scene: Scene, tmp_path: Path, kind: str) -> None:
    call = {"run": tmp_path / "run", "steps": 2}
    first = edit(scene, checkpoint, **call).clip.frames
    for path in (tmp_path / "run").glob(kind):
        path.write_bytes(path.read_bytes()[:50])
    for path in (tmp_path / "run/cache").glob("latents-*"):
        path.write_bytes(b"")
    assert np.array_equal(edit(scene, checkpoint, **call).clip.frames, first)


@pytest.mark.parametrize(
    "settings",
    [
        {"condition_on_references": True},
        {"fill": "carry", "restore_detail": True, "colour_variants": 3},
        {"lora": "naive"},
    ],
)
@pytest.mark.usefixtures("coarse_flow")
def test_a_long_clip_is_generated_in_segments(checkpoint: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    """Every frame is generated, the outside stays, and a second run reuses the latents of all segments."""
    scene, run = make_scene(frames=22, height=64, width=72), tmp_path / "run"
    reference = scene.source[12] // 2
    references = {} if "lora" in settings else {12: reference}
    call = {"steps": 1, "segment_frames": 9, "references": references, "run": run, "crop": "off", **settings}
    call["sampling_steps"] = 3
    first = edit(scene, checkpoint, **call)
    frames = first.clip.frames
    assert frames.shape == scene.source.shape and first.outside_exact
    assert np.array_equal(frames[~scene.mask], scene.source[~scene.mask])
    assert all((frames[index] != scene.source[index])[scene.mask[index]].mean() > 0.5 for index in range(1, 22))
    assert len(list((run / "cache").glob("latents-*"))) == 3
    assert not (run / "cache/pieces").exists()
    again = edit(scene, checkpoint, **call)
    assert again.reused[-1] == "sample" and np.array_equal(again.clip.frames, frames)


@pytest.mark.usefixtures("coarse_flow")
def test_unedited_segments_are_neither_trained_on_nor_generated(checkpoint: Path, tmp_path: Path) -> None:
    """The edited object leaves after five frames and returns in the last one."""
    scene, run = make_scene(frames=24, height=64, width=72), tmp_path / "run"
    mask = scene.mask.copy()
    mask[5:23] = False
    result = edit(replace(scene, mask=mask), checkpoint, steps=1, segment_frames=9, run=run, crop="off", fill="carry")
    frames = result.clip.frames
    assert len(list((run / "cache").glob("latents-*"))) == 2
    assert np.array_equal(frames[~mask], scene.source[~mask])
    assert all((frames[index] != scene.source[index])[mask[index]].mean() > 0.5 for index in (1, 2, 3, 4, 23))


def test_a_segment_that_is_longer_than_the_clip_changes_nothing(checkpoint: Path, scene: Scene) -> None:
    short, long = (edit(scene, checkpoint, steps=1, segment_frames=frames).clip.frames for frames in (5, 49))
    assert np.array_equal(short, long)


def test_the_edit_of_a_file_is_read_on_demand_and_that_of_an_array_is_an_array(
    checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    write_clip(tmp_path / "clip.mkv", Clip(scene.source, Fraction(10)))
    call = {"model": str(checkpoint), "steps": 1}
    kept = loraedit.edit(tmp_path / "clip.mkv", scene.edited_first, scene.mask, run=tmp_path / "run", **call).clip
    passing = loraedit.edit(tmp_path / "clip.mkv", scene.edited_first, scene.mask, **call).clip
    assert not isinstance(kept, Clip) and kept.fps == 10 and len(kept) == 5
    assert isinstance(passing, Clip)
    assert np.array_equal(np.stack(list(kept.rgb())), passing.frames)


def test_all_bits_and_the_opacity_are_kept_outside_and_the_opacity_inside(
    checkpoint: Path, scene: Scene, tmp_path: Path
) -> None:
    rng, deep = np.random.default_rng(0), scene.source.astype(np.uint16) * 257
    stored = np.concatenate([deep ^ 3, rng.integers(0, 65536, (*deep.shape[:3], 1), np.uint16)], -1)
    write_footage(tmp_path / "source", stored, Fraction(24))
    result = loraedit.edit(
        tmp_path / "source", scene.edited_first, scene.mask, model=str(checkpoint), steps=1, run=tmp_path / "run"
    )
    frames = np.stack(list(result.clip.exact()))
    assert frames.dtype == np.uint16 and frames.shape == stored.shape and result.outside_exact
    assert np.array_equal(frames[~scene.mask], stored[~scene.mask])
    assert np.array_equal(frames[..., 3], stored[..., 3])
    assert (frames[scene.mask] != stored[scene.mask]).any()


def test_the_outside_of_a_real_clip_is_kept_to_the_bit(checkpoint: Path, tmp_path: Path) -> None:
    source, mask = read_clip(EXAMPLE / "source.mkv").frames, read_clip(EXAMPLE / "mask.mkv").frames[..., 0] > 127
    result = loraedit.edit(
        EXAMPLE / "source.mkv", EXAMPLE / "first_frame_edited.png", EXAMPLE / "mask.mkv", out=tmp_path / "result.mkv",
        references={32: EXAMPLE / "last_frame_edited.png"}, model=str(checkpoint), steps=1, feather_px=5,
    )  # fmt: skip
    written = read_clip(tmp_path / "result.mkv").frames
    assert result.outside_exact
    assert np.array_equal(written[~mask], source[~mask])
    assert (written[mask] != source[mask]).any()
