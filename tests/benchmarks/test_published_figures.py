"""Claims about the figures of published sets: what is measured, and what the page says beside the published ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from published_sets import red_square, row
from tiny_encoders import save_tiny_clip_model, save_tiny_encoders
from transformers import CLIPModel

from benchmarks.published import measures
from benchmarks.published.encoders import Clip, Encoder, find_encoder
from benchmarks.published.figures import LABELS, PublishedSet, published_sets
from benchmarks.published.page import Results, section
from loraedit.batch.places import stamp
from loraedit.errors import InputError, ModelError


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return save_tiny_encoders(tmp_path_factory.mktemp("encoders"))


# ---- encoders and measures -------------------------------------------------------------------------------------------


def test_encoders_are_checked_before_they_load(tmp_path: Path, encoders: list[str]) -> None:
    found = [find_encoder(text, download=False) for text in encoders]
    assert [encoder.shape for encoder in found] == ["clip 16x2/14", "dinov2 16x2/14", "clip 16x2/14"]
    assert found[0].content != found[2].content
    clip = encoders[0].partition("=")[2]
    shutil.copytree(clip, tmp_path / "mute", ignore=lambda _folder, names: [each for each in names if "token" in each])
    for text, kind, message in [
        (clip, InputError, "not KIND=FOLDER"),
        (f"vlm={clip}", InputError, "not KIND=FOLDER"),
        (f"dino={clip}", ModelError, "is a clip model"),
        (f"clip={tmp_path / 'mute'}", ModelError, "Copy the tokenizer"),
        (f"clip={tmp_path}", ModelError, "is not an image encoder"),
        ("clip=no-one/nothing", ModelError, "--download"),
    ]:
        with pytest.raises(kind, match=message):
            find_encoder(text, download=False)


def test_an_encoder_of_the_hub_is_fetched_only_if_that_is_asked_for(
    encoders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, local_files_only, allow_patterns))
        return encoders[0].partition("=")[2]

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    for download in (False, True):
        assert find_encoder("clip=openai/clip", download).name == "openai/clip"
    assert asked == [("openai/clip", not each, ["*.json", "*.txt", "*.safetensors"]) for each in (False, True)]


def test_clips_figures_are_those_of_the_whole_model_and_scores_depend_on_the_text(encoders: list[str]) -> None:
    folder = Path(encoders[0].partition("=")[2])
    clip, model, frames = Clip(folder), CLIPModel.from_pretrained(folder).eval(), red_square(frames=19)
    seen, other = clip(frames, "a red square"), clip(frames, "blue")
    processed = torch.cat([clip._processor(images=frame, return_tensors="pt")["pixel_values"] for frame in frames])
    words = clip._processor(text="a red square", return_tensors="pt")
    with torch.no_grad():
        whole = model(pixel_values=processed, **words)
        logits, embedded = whole.logits_per_image[:, 0].numpy(), whole.image_embeds.numpy()
        pooled = model.vision_model(processed).pooler_output.numpy()
    np.testing.assert_allclose(seen.scores, logits, rtol=1e-4)
    np.testing.assert_allclose(clip.embed(frames), embedded, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen.pooled, pooled, rtol=1e-4, atol=1e-5)
    assert not np.allclose(seen.scores, other.scores) and np.array_equal(seen.pooled, other.pooled)


def test_consistency_is_the_mean_cosine_of_neighbours_and_never_negative() -> None:
    east, north = (1.0, 0.0), (0.0, 2.0)
    assert measures._consistency(np.float32([east, east, north])) == 0.5
    assert measures._consistency(np.float32([east, (-1.0, 0.0)])) == 0.0
    assert measures._consistency(np.float32([east])) is None


def test_an_encoder_with_other_weights_of_the_same_name_measures_again(tmp_path: Path) -> None:
    folder = save_tiny_clip_model(tmp_path / "clip")
    before = find_encoder(f"clip={folder}", download=False)
    save_tiny_clip_model(folder, seed=8)
    stamp.cache_clear()
    after = find_encoder(f"clip={folder}", download=False)
    assert before.shape == after.shape and before.content != after.content


# ---- the page --------------------------------------------------------------------------------------------------------


def results(form: str, figures: dict[str, dict[str, float]], encoders: list[Encoder] | None = None) -> Results:
    return Results(form, "ours", {"model": "nano"}, figures, {}, encoders or [], "index.html")


def encoder(kind: str, shape: str) -> Encoder:
    return Encoder(kind, kind, Path(kind), shape, "0" * 12)  # type: ignore[arg-type]


def test_figures_have_a_known_measure_and_a_source() -> None:
    assert not published_sets("anyv2v")
    paper, (ffp, appearance) = published_sets("i2vedit")[0], published_sets("editverse")
    assert [each.name for each in paper.rows] == ["AnyV2V", "Go-with-the-Flow", "I2VEdit", "LoRA-Edit"]
    assert paper.rows[-1].figures() == {
        "first_frame_similarity": 0.9172, "deqa": 3.8013, "input_similarity": 0.7608,
    }  # fmt: skip
    assert (paper.clips, ffp.clips, appearance.clips) == (20, 125, None)
    for each in (paper, ffp, appearance):
        assert "arXiv" in each.source and all(set(line.figures()) <= set(LABELS) for line in each.rows)


def test_a_figure_on_fewer_clips_or_by_another_encoder_is_starred_with_the_reason() -> None:
    right, wrong = encoder("clip", "clip 1024x24/14"), encoder("clip", "clip 768x12/32")
    known = PublishedSet(
        title="set", clips=2, source="paper", note="note", encoders={"clip": right.shape},
        rows=({"name": "theirs", "frame_text": 28.0, "pick": 20.0},),
    )  # fmt: skip
    whole = {"a": {"frame_text": 25.0}, "b": {"frame_text": 26.0}}
    for figures, by, figure, reason in [
        (whole, right, "25.500", None),
        (whole, wrong, "25.500\\*", "with clip 768x12/32 in place of clip 1024x24/14"),
        ({"a": whole["a"]}, right, "25.000\\*", "on 1 of 2 clips"),
        ({**whole, "b": {}}, right, "25.000\\* (1)", "on 1 of 2 clips"),
    ]:
        text = section(results("editverse", figures, [by]), [known])
        assert row(text, "theirs") == ["theirs", "set, 2", "28", "20"]
        assert row(text, "**ours**") == ["**ours**", f"this folder, {len(figures)}", figure, "-"]
        assert ("Not comparable" in text) == (reason is not None) and (reason or "") in text
        assert "PickScore was not measured: no encoder for it was given." in text


def test_what_cannot_be_measured_is_said_with_its_reason() -> None:
    text = section(results("i2vedit", {"a": {}}), published_sets("i2vedit"))
    assert row(text, "**ours**")[2:] == ["-", "-", "-"]
    assert "DeQA was not measured: its model needs code from its checkpoint" in text
    given = section(results("i2vedit", {"a": {"deqa": 3.5}}), published_sets("i2vedit"))
    assert row(given, "**ours**")[3] == "3.5000\\*" and "DeQA was not measured" not in given
    mute = section(results("i2vedit", {"a": {}}, [encoder("pick", "clip 1280x32/14")]), published_sets("i2vedit"))
    assert "PickScore was not measured: it needs prompts" in mute and "frame text" not in mute
    assert "No figures have been published" in section(results("anyv2v", {"a": {}}), published_sets("anyv2v"))


def test_an_encoder_that_the_paper_does_not_name_keeps_figures_apart() -> None:
    figures = {str(index): {"input_similarity": 0.8} for index in range(20)}
    text = section(results("i2vedit", figures, [encoder("clip", "clip 1024x24/14")]), published_sets("i2vedit"))
    assert row(text, "**ours**")[-1] == "0.8000\\*" and "the published encoder is not named" in text
