"""The structure check finds imports upward, circles, and files, functions and folders that have grown too large."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import check_structure


def repository(root: Path, **files: str) -> Path:
    """Writes a package; the keys are dotted paths below ``src/loraedit``, the values the text of the files."""
    for name, text in {"__init__": "", **files}.items():
        path = root / "src/loraedit" / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def problems(root: Path, **files: str) -> list[str]:
    return [text.replace(f"{root}/", "") for text in check_structure.problems_of(repository(root, **files))]


def test_this_repository_has_a_layer_for_every_folder() -> None:
    modules = check_structure.read_modules(Path(__file__).parents[2] / "src")
    assert len(modules) > 100
    assert {module.unit for module in modules.values()} == {"loraedit", *check_structure.DEPTH}


def test_imports_downward_and_within_a_folder_pass(tmp_path: Path) -> None:
    files = {
        "cli.main": "import loraedit\nimport numpy\nfrom loraedit.masks import tube\nfrom . import other",
        "cli.other": "from ..types import Clip",
        "masks.tube": "",
        "types": "",
    }
    assert problems(tmp_path, **files) == []


@pytest.mark.parametrize(
    "line",
    ["import loraedit.cli.main", "from loraedit.cli import main", "from ..cli.main import x", "from ..cli import x"],
)
def test_an_import_upward_is_found_in_every_spelling(tmp_path: Path, line: str) -> None:
    files = {"cli.__init__": "", "cli.main": "", "masks.tube": f"def f():\n    {line}"}
    (found,) = problems(tmp_path, **files)
    assert found.startswith("src/loraedit/masks/tube.py:2: masks imports loraedit.cli")
    assert found.endswith("but cli is a higher layer")


def test_a_folder_without_a_layer_is_found(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, **{"attic.box": ""})
    assert found.startswith("src/loraedit/attic: no layer is known")


def test_circles_between_modules_are_found_even_through_a_late_import(tmp_path: Path) -> None:
    files = {
        "masks.a": "from loraedit.masks import b",
        "masks.b": "from loraedit.masks.c import x",
        "masks.c": "def f():\n    from loraedit.masks.a import x",
        "video.d": "from loraedit.video.e import x",
        "video.e": "from loraedit.video import d",
    }
    found = problems(tmp_path, **files)
    assert len(found) == 2 and all(text.startswith("modules import each other in a circle") for text in found)
    assert sum(f"loraedit.masks.{name} -> " in text for text in found for name in "abc") == 3


def test_circles_between_folders_of_one_layer_are_found(tmp_path: Path) -> None:
    files = {
        "masks.a": "from loraedit.optical_flow.b import x",
        "masks.c": "",
        "optical_flow.b": "",
        "optical_flow.d": "from loraedit.masks.c import x",
    }
    (found,) = problems(tmp_path, **files)
    assert found in (
        "folders import each other in a circle: masks -> optical_flow -> masks",
        "folders import each other in a circle: optical_flow -> masks -> optical_flow",
    )


def test_long_files_and_functions_are_found_in_the_package_and_beside_it(tmp_path: Path) -> None:
    body = "    pass\n" * check_structure.MAX_FUNCTION_LINES
    repository(tmp_path, **{"masks.tube": f"def short():\n{body[9:]}\n\ndef long():\n{body}"})
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_long.py").write_text("\n" * (check_structure.MAX_FILE_LINES + 1))
    (tmp_path / "tests/test_fits.py").write_text("\n" * check_structure.MAX_FILE_LINES)
    function, file = problems(tmp_path)
    assert function.startswith("src/loraedit/masks/tube.py:63: long() has 61 lines")
    assert file.startswith("tests/test_long.py: 351 lines")


def test_many_files_outside_folders_are_found(tmp_path: Path) -> None:
    names = ["__main__", "cli", "web", "batch", "types", "errors", "version"]
    (found,) = problems(tmp_path, **dict.fromkeys(names, ""))
    assert found.startswith("src/loraedit: 8 Python files directly in it")


def test_a_folder_of_tests_that_mirrors_nothing_is_found(tmp_path: Path) -> None:
    repository(tmp_path, **{"masks.tube": ""})
    (tmp_path / "docs").mkdir()
    for name in ("masks", "support", "docs", "attic"):
        (tmp_path / "tests" / name).mkdir(parents=True)
        (tmp_path / "tests" / name / "test_it.py").touch()
    (found,) = problems(tmp_path)
    assert found.startswith("tests/attic: mirrors no folder")


def test_the_exit_status_and_the_last_line_tell_the_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_structure.main(repository(tmp_path)) == 0
    assert capsys.readouterr().out == "Structure check: no problems found.\n"
    assert check_structure.main(repository(tmp_path, attic="")) == 1
    assert capsys.readouterr().out.endswith("\nStructure check: 1 problem found.\n")
