"""Benchmark results stay valid when only texts change, and are void when code or settings change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.keeping import code_of, kept, parse_settings, result_key

CODE = '''"""One."""
LIMIT = 3
"""Of something."""


class Thing:
    """Two."""


def double(value: int) -> int:
    """Three."""
    return 2 * value  # four
'''


def code(tmp_path: Path, text: str) -> str:
    (tmp_path / "code.py").write_text(text)
    return code_of(tmp_path / "code.py")


def test_texts_comments_and_format_do_not_change_the_code(tmp_path: Path) -> None:
    other = CODE.replace("One", "1").replace("Of some", "Of an").replace("Two", "2").replace("Three", "3\n\n    Args")
    other = (
        other.replace("# four", "# 4").replace("def double(", "def double(\n    ").replace("2 * value", "(2 * value)")
    )
    assert other != CODE and code(tmp_path, other) == code(tmp_path, CODE)


@pytest.mark.parametrize(("old", "new"), [("2 * value", "3 * value"), ("LIMIT = 3", "LIMIT = 4"), ("double", "twice")])
def test_code_changes_the_code(tmp_path: Path, old: str, new: str) -> None:
    assert code(tmp_path, CODE.replace(old, new)) != code(tmp_path, CODE)


def test_a_key_depends_on_its_settings_and_stays_the_same_otherwise() -> None:
    assert result_key({"steps": 1}, 2) == result_key({"steps": 1}, 2) != result_key({"steps": 2}, 2)


def test_a_kept_result_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []
    for _ in range(2):
        assert kept(tmp_path / "result.json", lambda: made.append(1) or {"psnr": 30.5}) == {"psnr": 30.5}
    assert made == [1] and json.loads((tmp_path / "result.json").read_text()) == {"psnr": 30.5}


def test_settings_are_json_where_they_can_be() -> None:
    texts = ["steps=3", "lora=naive", "prior=false", "prompt=a=b"]
    assert parse_settings(texts) == {"steps": 3, "lora": "naive", "prior": False, "prompt": "a=b"}
