"""Captions by transformers' own classes, from tiny random checkpoints of Florence-2 and Qwen3-VL."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes import Scene, make_scene
from tiny_captioners import WORDS, save_tiny_florence, word_tokenizer
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerFast

from loraedit.editing import run_edit
from loraedit.editing.captions import Captioner, captioned, without_preamble
from loraedit.editing.repeat import plan_repetition
from loraedit.errors import ModelError
from loraedit.families.wan.family import WanFamily
from loraedit.job.edits import EditObject
from loraedit.job.prepare import Job, prepare
from loraedit.job.request import EditRequest
from loraedit.job.targets import Texts
from loraedit.settings import make_settings
from loraedit.types import Image

pytestmark = pytest.mark.filterwarnings("ignore")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("florence")
    save_tiny_florence(folder)
    return folder


@pytest.fixture
def seen(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the captioner by one that knows the pictures of the scene; returns what it has described so far."""
    described: list[str] = []
    reds = [(reference(scene, index), f"frame {index} in green") for index in (2, 3)]
    known = [(scene.source[0], "a red square"), (scene.edited_first, "a blue square"), *reds]
    knowing(known, described, monkeypatch)
    return described


def knowing(known: Sequence[tuple[Image, str]], described: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the captioner by one that knows these pictures, and notes what it describes."""
    names = {image.tobytes(): name for image, name in known}

    class Knowing:
        def describe(self, image: Image) -> str:
            described.append(names.get(image.tobytes(), "something else"))
            return described[-1]

    monkeypatch.setattr(Captioner, "open", lambda *_: Knowing())


def reference(scene: Scene, index: int) -> Image:
    """A frame of the scene with a green square."""
    image = scene.source[index].copy()
    image[10:22, 8 + 2 * index : 20 + 2 * index] = (30, 200, 60)
    return image


def job_of(scene: Scene, florence: Path, **values: Any) -> Job:
    """The job of an edit with a captioner; values are settings, but for references, objects, mask and run."""
    given = {name: values.pop(name) for name in ("references", "objects", "mask", "run") if name in values}
    settings = make_settings(
        {"captioner": str(florence), "device": "cpu", "trigger": "p3rs0n", "crop": "off", **values}
    )
    inputs = {"mask": scene.mask, **given}
    return prepare(EditRequest(scene.source, scene.edited_first, settings=settings, **inputs))


# ---- the models ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torchvision")
    from transformers import Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(0)
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    words = [*marks, *WORDS]
    text = {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 2, 2], "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
        "deepstack_visual_indexes": [0], "num_position_embeddings": 16, "patch_size": 16,
    }  # fmt: skip
    tokens = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 2, "vision_end_token_id": 3}
    Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)).save_pretrained(
        folder
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(words), eos_token="<|im_end|>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=marks,
    )  # fmt: skip
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|> {% for c in m.content %}{% if c.type == 'image' %}<|vision_start|> "
        "<|image_pad|> <|vision_end|> {% else %}{{ c.text }} {% endif %}{% endfor %}<|im_end|> {% endfor %}"
    )
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessor(patch_size=16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["florence", "qwen"])
def test_a_picture_always_gets_the_same_caption(kind: str, scene: Scene, request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue(kind))
    words = Captioner.open(folder, CPU).describe(scene.edited_first)
    assert words and set(words.split()) <= set(WORDS)
    assert words == Captioner.open(folder, CPU).describe(scene.edited_first)


def test_florence_is_asked_as_in_the_published_method(
    florence: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Captioner.open(str(florence), CPU)
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(model.model, "generate", lambda **values: asked.append(values) or torch.tensor([[2, 0, 5, 2]]))
    assert model.describe(scene.edited_first) == "a"
    assert asked[0]["num_beams"] == 3 and asked[0]["max_new_tokens"] >= 200
    question = model.processor.tokenizer.decode(asked[0]["input_ids"][0])
    assert "Describe" in question and "in detail" in question  # the question of <DETAILED_CAPTION>


def test_a_half_precision_checkpoint_runs_on_a_cpu(florence: Path, scene: Scene, tmp_path: Path) -> None:
    half = shutil.copytree(florence, tmp_path / "half")
    Florence2ForConditionalGeneration.from_pretrained(florence).half().save_pretrained(half)
    model = Captioner.open(str(half), CPU)
    assert model.model.dtype == torch.float32 and model.describe(scene.edited_first)
    model.model.to(torch.bfloat16)  # as on other devices, which take the precision of the checkpoint
    assert model.describe(scene.edited_first)


@pytest.mark.parametrize(
    ("caption", "left"),
    [
        ("The image shows a man in a red coat.", "a man in a red coat."),
        ("This image shows a car.", "a car."),
        ("In this image we can see a dog.", "a dog."),
        ("In this image, we can see a dog.", "a dog."),
        ("A poster. The image shows a car.", "A poster. The image shows a car."),
        ("The image on the wall is old.", "The image on the wall is old."),
    ],
)
def test_only_the_words_about_the_image_itself_are_removed(caption: str, left: str) -> None:
    assert without_preamble(caption) == left


def test_an_empty_caption_is_refused(florence: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Captioner.open(str(florence), CPU)
    monkeypatch.setattr(model.model, "generate", lambda **_: torch.tensor([[2, 0, 2]]))
    with pytest.raises(ModelError, match="finds no words"):
        model.describe(scene.edited_first)


def test_a_damaged_captioner_is_refused(florence: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(florence, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be loaded"):
        Captioner.open(str(broken), CPU)


# ---- the texts of an edit --------------------------------------------------------------------------------------------


def test_captions_answer_what_the_user_left_open(florence: Path, scene: Scene, tmp_path: Path, seen: list[str]) -> None:
    job, note = captioned(job_of(scene, florence), tmp_path, CPU)
    assert (job.settings.source_prompt, job.settings.prompt) == ("a red square", "a blue square")
    assert "a red square" in note and "a blue square" in note and len(seen) == 2

    job, note = captioned(job_of(scene, florence, prompt="a sea"), tmp_path / "other", CPU)
    assert (job.settings.source_prompt, job.settings.prompt) == ("a red square", "a sea")
    assert "a sea" not in note and len(seen) == 3


def test_captions_are_kept(florence: Path, scene: Scene, tmp_path: Path, seen: list[str]) -> None:
    references = {2: reference(scene, 2)}
    first, _ = captioned(job_of(scene, florence, references=references), tmp_path, CPU)
    assert len(seen) == 3
    again, _ = captioned(job_of(scene, florence, references=references), tmp_path, CPU)
    assert len(seen) == 3
    assert again.settings == first.settings and again.targets[0].texts == first.targets[0].texts


def test_a_reference_has_a_caption_of_its_own_unless_there_is_a_prompt(
    florence: Path, scene: Scene, tmp_path: Path, seen: list[str]
) -> None:
    references = {3: reference(scene, 3), 2: reference(scene, 2)}
    job, note = captioned(job_of(scene, florence, references=references), tmp_path, CPU)
    texts = {index: job.targets[0].texts.reference(index) for index in references}
    assert texts == {2: "p3rs0n, frame 2 in green", 3: "p3rs0n, frame 3 in green"}
    assert "2 pictures more" in note

    job, _ = captioned(job_of(scene, florence, references=references, prompt="a sea"), tmp_path / "other", CPU)
    assert {job.targets[0].texts.reference(index) for index in references} == {"p3rs0n, a sea"}
    assert len(seen) == 5


def test_each_object_has_the_captions_of_its_own_references(
    florence: Path, scene: Scene, tmp_path: Path, seen: list[str]
) -> None:
    corner = scene.source[3].copy()
    corner[:4, :4] = 255
    objects = [
        EditObject("square", "5,7,30,25", {3: reference(scene, 3)}),
        EditObject("corner", "0,0,4,4", {3: corner}),
    ]
    asked = job_of(scene, florence, objects=objects, mask=None, references={2: reference(scene, 2)})
    job, _ = captioned(asked, tmp_path, CPU)
    assert [target.texts.references for target in job.targets] == [
        {2: "p3rs0n, frame 2 in green", 3: "p3rs0n, frame 3 in green"},
        {2: "p3rs0n, frame 2 in green", 3: "p3rs0n, something else"},
    ]
    assert len(seen) == 5  # a picture of two objects is described once


def test_each_object_is_described_by_what_the_model_sees_of_it(
    florence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = make_scene(width=160)
    mask, edited, later = np.zeros_like(wide.mask), wide.edited_first.copy(), wide.source[3].copy()
    mask[:, 4:30, 130:156], edited[10:20, 134:150], later[10:20, 134:150] = True, 255, 128
    objects = [EditObject("square", wide.mask), EditObject("right", mask, {3: later})]
    settings = make_settings({"captioner": str(florence), "device": "cpu", "trigger": "p3rs0n", "crop": "fixed"})
    asked = prepare(EditRequest(wide.source, edited, objects=objects, settings=settings))
    pictures = []
    for number, target in enumerate(asked.targets):
        assert target.window.size.width < 100
        shown = {"source": wide.source[0], "edit": edited, **({"later": later} if number else {})}
        at = {name: target.window.at(3 if name == "later" else 0) for name in shown}
        pictures += [(image[at[name]], f"{name} of object {number}") for name, image in shown.items()]
    seen: list[str] = []
    knowing(pictures, seen, monkeypatch)
    job, note = captioned(asked, tmp_path, CPU)
    assert [target.texts for target in job.targets] == [
        Texts("p3rs0n, source of object 0", "p3rs0n, edit of object 0"),
        Texts("p3rs0n, source of object 1", "p3rs0n, edit of object 1", {3: "p3rs0n, later of object 1"}),
    ]
    assert job.settings.prompt == "edit of object 0, edit of object 1" and "3 pictures more" in note
    assert len(seen) == 5


def test_captions_are_made_again_by_a_captioner_with_other_files(
    florence: Path, scene: Scene, tmp_path: Path, seen: list[str]
) -> None:
    copy, cache = shutil.copytree(florence, tmp_path / "captioner"), tmp_path / "cache"
    job = job_of(scene, copy)
    captioned(job, cache, CPU)
    shutil.move(copy, tmp_path / "moved")
    captioned(job_of(scene, tmp_path / "moved"), cache, CPU)
    assert len(seen) == 2  # the same files under another name
    weights = bytearray((florence / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    shutil.copytree(florence, copy)
    (copy / "model.safetensors").write_bytes(weights)
    captioned(job, cache, CPU)
    assert len(seen) == 4
    captioned(job, cache, torch.device("cuda"))  # in the precision of the files, where a CPU takes float32
    assert len(seen) == 6


def test_prompts_of_objects_describe_their_references(
    florence: Path, scene: Scene, tmp_path: Path, seen: list[str]
) -> None:
    objects = [EditObject("square", "5,7,30,25", {3: reference(scene, 3)}, prompt="a green square")]
    job, _ = captioned(job_of(scene, florence, objects=objects, mask=None), tmp_path, CPU)
    assert job.targets[0].texts.reference(3) == job.settings.text == "p3rs0n, a green square"
    assert seen == ["a red square"]


@pytest.mark.parametrize("lora", ["none", "naive"])
def test_the_bare_model_and_the_ablation_get_the_texts_that_they_use(
    lora: str, florence: Path, scene: Scene, tmp_path: Path, seen: list[str]
) -> None:
    job, _ = captioned(job_of(scene, florence, lora=lora, prior=False), tmp_path, CPU)
    assert job.settings.text == "p3rs0n, a blue square"
    assert seen == (["a blue square"] if lora == "none" else ["a red square", "a blue square"])


def test_a_run_encodes_its_captions_records_them_and_is_repeated_without_the_captioner(
    florence: Path, checkpoint: Path, scene: Scene, tmp_path: Path, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    read_texts = WanFamily._texts

    def watched(family: WanFamily, prompts: Sequence[str], *others: Any) -> Any:
        encoded.extend(prompts)
        return read_texts(family, prompts, *others)

    monkeypatch.setattr(WanFamily, "_texts", watched)
    captioner = shutil.copytree(florence, tmp_path / "captioner")
    values = {"model": str(checkpoint), "steps": 2, "reference_steps": 2, "negative_prompt": ""}
    references = {2: reference(scene, 2)}
    result = run_edit(job_of(scene, captioner, run=tmp_path / "run", references=references, **values))
    source, edited, second = "p3rs0n, a red square", "p3rs0n, a blue square", "p3rs0n, frame 2 in green"
    assert {source, edited, second} <= set(encoded)
    assert any("a red square" in note for note in result.notes)
    record = json.loads((tmp_path / "run/settings.json").read_text())
    assert record["texts"] == [{"source": source, "edited": edited, "references": {"2": second}}]

    shutil.rmtree(captioner)
    described, before = len(seen), set(encoded)
    encoded.clear()
    repetition = plan_repetition(tmp_path / "run", None, tmp_path / "again")
    _, same = repetition.carry_out(lambda *_: None)
    assert same and len(seen) == described and set(encoded) == before
    assert json.loads((tmp_path / "again/settings.json").read_text()) == record
