"""A short part of what `make fuzz` does, in this process: exit code 0 or 2, one sentence, nothing left over."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fuzz_cases import make_case
from fuzz_kit import make_kit

from loraedit.cli import main as cli
from scripts.fuzz import contents, left_over

KINDS = 15
OF_A_KIND = 2


@pytest.fixture(scope="module")
def kit(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_kit(tmp_path_factory.mktemp("fuzz") / "kit", checkpoint)


@pytest.mark.parametrize("kind", range(KINDS))
def test_hostile_inputs_are_refused_or_done(
    kind: int, kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(kind, OF_A_KIND * KINDS, KINDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        case = make_case(number, 1, kit, folder)
        before = contents(folder)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["loraedit", *case.arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        code, said = end.value.code or 0, capsys.readouterr().err
        assert code in (0, 2) and "Traceback" not in said, case
        assert code == 0 or said, case
        assert left_over(before, contents(folder), int(code)) == [], case


def test_case_number_n_is_the_same_each_time(kit: Path, tmp_path: Path) -> None:
    def files(seed: int, folder: Path) -> dict[str, str]:
        folder.mkdir()
        make_case(7, seed, kit, folder)
        return contents(folder)

    assert files(1, tmp_path / "a") == files(1, tmp_path / "b") != files(2, tmp_path / "c")
