"""A captioner is known by name, refused before a frame is decoded, and fetched only if the user asks, last of all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from scenes import Scene

from loraedit.errors import InputError, LoraEditError, ModelError
from loraedit.job import captioner as captioners
from loraedit.job.captioner import CAPTIONERS, find_captioner
from loraedit.job.prepare import prepare
from loraedit.job.request import EditRequest
from loraedit.settings import make_settings


@pytest.fixture
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the inputs were read")

    monkeypatch.setattr("loraedit.job.prepare.read_inputs", refuse)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's cache is empty."""
    monkeypatch.setattr(captioners, "find_snapshot", lambda _: None)


class Hub:
    """A Hub of one captioner: it gives small files and weights as they are asked for."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.asked = cache, list[str]()

    def find(self, _: str) -> Path | None:
        return self.cache if self.cache.exists() else None

    def fetch(self, repository: str, patterns: Sequence[str], _: str) -> Path:
        self.asked.append(repository)
        captioner_folder(self.cache, "florence2", weights="*.safetensors" in patterns)
        return self.cache


@pytest.fixture
def the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(tmp_path / "cache")
    monkeypatch.setattr(captioners, "find_snapshot", hub.find)
    monkeypatch.setattr(captioners, "fetch_snapshot", hub.fetch)
    return hub


def captioner_folder(folder: Path, kind: str, *, weights: bool = True, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **config}))
    if weights:
        (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def request(scene: Scene, captioner: str | Path, **settings: Any) -> EditRequest:
    made = make_settings({"captioner": str(captioner), **settings})
    return EditRequest(scene.source, scene.edited_first, scene.mask, settings=made)


@pytest.mark.usefixtures("nothing_read", "offline")
@pytest.mark.parametrize(
    ("captioner", "words"),
    [
        ("florense-2", "Did you mean florence-2"),
        ("something", "Known are florence-2, florence-2-base, qwen3-vl"),
        ("florence-2", r"not on this machine.*--download.*1\.6 GB"),
        ("Florence-2-Base", r"--download.*0\.5 GB"),
        ("someone/captioner", "not on this machine.*--download to fetch it from the Hub, or"),
        ("", "Known are"),
    ],
)
def test_a_captioner_that_is_not_here_is_refused_before_anything_is_read(
    captioner: str, words: str, scene: Scene
) -> None:
    with pytest.raises(LoraEditError, match=words):
        prepare(request(scene, captioner))


@pytest.mark.usefixtures("nothing_read")
def test_a_folder_that_is_no_captioner_is_refused_before_anything_is_read(
    scene: Scene, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    remote = captioner_folder(tmp_path / "remote", "florence2", auto_map={"AutoConfig": "x.py"})
    cases = {
        checkpoint / "text_encoder": "Use a Florence-2 or a Qwen-VL",
        tmp_path: "no config.json",
        remote: "Python code of its own",
        captioner_folder(tmp_path / "half", "florence2", weights=False): "lacks model.safetensors",
        captioner_folder(tmp_path / "qwen", "qwen3_vl"): r"torchvision.*\.\[captions\]",
        captioner_folder(tmp_path / "text", "qwen3"): "qwen3 model",
    }
    for folder, words in cases.items():
        with pytest.raises(LoraEditError, match=words):
            prepare(request(scene, folder))


def test_all_files_of_an_index_must_be_there(scene: Scene, tmp_path: Path) -> None:
    folder = captioner_folder(tmp_path / "two", "florence2")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-2\.safetensors"):
        prepare(request(scene, folder))


@pytest.mark.usefixtures("offline")
def test_a_captioner_with_nothing_to_describe_need_not_be_here(scene: Scene) -> None:
    job = prepare(request(scene, "florence-2", prompt="a", source_prompt="b"))
    assert (job.settings.prompt, job.settings.source_prompt) == ("a", "b")
    assert prepare(request(scene, "florence-2", prompt="a", lora="none", prior=False)).settings.source_prompt == ""


def test_an_auto_prompt_needs_a_captioner(scene: Scene) -> None:
    settings = make_settings({"prompt": "auto"})
    with pytest.raises(InputError, match=r"--captioner.*florence-2"):
        prepare(EditRequest(scene.source, scene.edited_first, scene.mask, settings=settings))


def test_a_captioner_is_downloaded_last(scene: Scene, the_hub: Hub) -> None:
    seen: list[tuple[str, int, int, str]] = []
    prepare(request(scene, "florence-2", download=True), lambda *event: seen.append(event))
    assert seen[-2:] == [("download", 0, 1, "florence-community/Florence-2-large, 1.6 GB"), ("download", 1, 1, "")]
    assert the_hub.asked == ["florence-community/Florence-2-large"] * 2  # small files, then the weights
    assert find_captioner("florence-2") == the_hub.cache

    seen.clear()
    prepare(request(scene, "florence-2"), lambda *event: seen.append(event))
    assert len(the_hub.asked) == 2 and "download" not in {phase for phase, *_ in seen}


def test_weights_are_not_fetched_for_a_request_that_is_refused(scene: Scene, the_hub: Hub) -> None:
    asked = request(scene, "florence-2", download=True)
    small = EditRequest(asked.source, scene.edited_first[:-2], scene.mask, settings=asked.settings)
    with pytest.raises(InputError):
        prepare(small)
    assert not (the_hub.cache / "model.safetensors").exists()


def test_a_folder_is_taken_for_a_folder_and_a_name_for_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(captioners, "find_snapshot", lambda hub_id: captioner_folder(tmp_path / "cache", hub_id))
    assert find_captioner(str(captioner_folder(tmp_path / "mine", "florence2"))) == tmp_path / "mine"
    captioner_folder(tmp_path / "florence-2", "florence2")
    assert find_captioner("florence-2") == tmp_path / "cache"
    assert len({each.name for each in CAPTIONERS}) == len(CAPTIONERS)
