"""Claims about the files of a run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from loraedit.errors import CacheError
from loraedit.storage.files import fingerprint, load_tensors, save_tensors, try_load_tensors, write_json

TENSORS = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.ones(2, dtype=torch.int64)}


def test_a_fingerprint_follows_every_byte_the_shape_the_type_and_the_order() -> None:
    array = np.zeros((2, 3), np.uint8)
    changed = array.copy()
    changed[1, 2] = 1
    parts = [(array,), (changed,), (array.T,), (array.astype(np.int8),), (array, "x"), ("x", array), ("x",), (b"x",)]
    assert len({fingerprint(*each) for each in parts}) == len(parts)
    assert fingerprint(array[:, ::-1], {"b": 1, "a": 2}) == fingerprint(array, {"a": 2, "b": 1})


def test_tensors_come_back_as_they_were_and_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    metadata = {name: index for index, name in enumerate("zyxwvutsrq")}
    for name in ("one", "two"):
        save_tensors(tmp_path / name, TENSORS, metadata)
    tensors, read = load_tensors(tmp_path / "one")
    assert read == metadata
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("content", [b"", b"short", b"\x80\x04pickle" * 9, b"\xff" * 64])
def test_a_damaged_file_is_reported_or_set_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(CacheError):
        load_tensors(path)
    assert try_load_tensors(path, ()) is None
    assert [each.name for each in tmp_path.iterdir()] == ["file.safetensors.damaged"]


def test_a_file_that_lacks_a_tensor_is_set_aside_and_a_missing_one_is_none(tmp_path: Path) -> None:
    save_tensors(tmp_path / "file", TENSORS)
    assert try_load_tensors(tmp_path / "file", ("a", "b")) is not None
    assert try_load_tensors(tmp_path / "file", ("a", "c")) is None
    assert try_load_tensors(tmp_path / "file", ("a",)) is None


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "settings.json", {"a": 1})
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "settings.json", {"a": float("nan")})
    assert (tmp_path / "settings.json").read_text() == '{\n  "a": 1\n}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["settings.json"]
