"""Every command, option, Python snippet and link in the documents is valid for the present code."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
from documents import DOCUMENTS, ROOT, Command, blocks, commands, links, options, snippets

import loraedit
from loraedit.cli.main import app
from loraedit.errors import LoraEditError
from loraedit.settings import EditSettings, make_settings

BESIDE = ("benchmarks", "pretrain", "scripts")
FOREIGN_OPTIONS = {"--no-deps"}
"""Options of pip that the documents mention."""


class DocumentError(Exception):
    """A document shows something that does not work."""


def found_in(of: Callable[[Path, str], Iterator[Any]], *programs: str) -> list[Any]:
    found = [each for path in DOCUMENTS for each in of(path, path.read_text(encoding="utf-8"))]
    return [each for each in found if not programs or each.words[0] in programs]


# loraedit


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


def check_loraedit(command: Command) -> None:
    """Parses the arguments as the command line does, without running the command."""
    parser, (_, *words) = command_line(), command.words
    while hasattr(parser, "commands") and words and not words[0].startswith("-"):
        if words[0] not in parser.commands:
            raise DocumentError(f"there is no command {words[0]!r}")
        parser = parser.commands[words.pop(0)]
    if hasattr(parser, "commands"):
        unknown = {word for word in words if word not in names_of(parser)}
        if unknown:
            raise DocumentError(f"there is no option {unknown}")
        return
    try:
        values = parser.make_context(parser.name, words).params
    except Exception as error:
        if command.whole or type(error).__name__ != "MissingParameter":
            raise DocumentError(str(error)) from error
        return
    if parser.name == "edit":
        given = {name: value for name, value in values.items() if name in EditSettings.model_fields}
        try:
            make_settings({name: value for name, value in given.items() if value is not None})
        except LoraEditError as error:
            raise DocumentError(str(error)) from error


def names_of(parser: Any) -> set[str]:
    """Returns the names of all options of a command."""
    return {name for each in parser.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}


def all_commands(parser: Any) -> Iterator[Any]:
    yield parser
    for each in getattr(parser, "commands", {}).values():
        yield from all_commands(each)


# Programs beside it


def check_python(command: Command) -> None:
    """Parses the arguments with the parser of the module or script; only pytest and venv are taken on trust."""
    arguments = list(command.words[1:])
    if arguments[0] == "-m":
        name, arguments = arguments[1], arguments[2:]
        if name == "loraedit":
            return check_loraedit(Command(command.place, ("loraedit", *arguments), command.whole))
        if name == "pip":
            return check_pip(Command(command.place, ("pip", *arguments), command.whole))
        if name in ("pytest", "venv"):
            return check_paths(arguments)
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{name}.__main__")
    else:
        script = Path(arguments.pop(0))
        if not (ROOT / script).is_file():
            raise DocumentError(f"there is no file {script}")
        module = importlib.import_module(".".join(script.with_suffix("").parts))
    return parse(module, arguments)


def parse(module: ModuleType, arguments: list[str]) -> None:
    parser: argparse.ArgumentParser = module.argument_parser()
    parser.exit_on_error = False

    def fail(message: str) -> None:
        raise DocumentError(message)

    parser.error = fail  # type: ignore[method-assign, assignment]
    try:
        parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise DocumentError(str(error)) from error


def check_paths(arguments: list[str]) -> None:
    missing = [word for word in arguments if word.startswith("tests/") and not (ROOT / word.split("::")[0]).exists()]
    if missing:
        raise DocumentError(f"there is no {missing[0]}")


def check_pip(command: Command) -> None:
    """Checks that each extra of the package exists."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.findall(r"(?:loraedit|\.)\[([\w,-]+)\]", " ".join(command.words))
    unknown = {extra for extras in asked for extra in extras.split(",")} - set(known)
    if unknown:
        raise DocumentError(f"there is no extra {unknown}")


def check_make(command: Command) -> None:
    """Checks that each target is listed by ``make help`` and each variable is one of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    for word in command.words[1:]:
        variable = re.match(r"(\w+)=", word)
        pattern = rf"^{variable[1]} [?:]?=" if variable else rf"^{re.escape(word)}:.*## "
        if not re.search(pattern, makefile, re.MULTILINE):
            raise DocumentError(f"the Makefile has no {word!r}")


CHECKS: dict[str, Callable[[Command], None]] = {
    "loraedit": check_loraedit, "python": check_python, "python3": check_python, "pip": check_pip, "make": check_make,
}  # fmt: skip


def check(command: Command) -> None:
    CHECKS[command.words[0]](command)


@pytest.mark.parametrize("command", found_in(commands), ids=str)
def test_a_shown_command_parses(command: Command) -> None:
    check(command)


def test_shown_make_targets_run_dry() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    targets = {word for each in found_in(commands, "make") for word in each.words[1:] if "=" not in word}
    assert {"setup", "test", "check"} <= targets
    done = subprocess.run(["make", "-n", *sorted(targets)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_of_every_kind_are_found() -> None:
    assert {each.words[0] for each in found_in(commands)} >= {"loraedit", "make", "python", "pip"}
    assert {each.words[1] for each in found_in(commands, "loraedit")} >= {"edit", "mask", "evaluate", "plan", "lora"}


def test_mentioned_options_exist() -> None:
    known = {name for each in all_commands(command_line()) for name in names_of(each)} | FOREIGN_OPTIONS
    for path in (path for folder in BESIDE for path in (ROOT / folder).rglob("*.py")):
        known |= set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', path.read_text()))
    missing = [
        f"{path.name}:{line}: {name}"
        for path in DOCUMENTS
        for line, name in options(path.read_text(encoding="utf-8"))
        if name not in known
    ]
    assert missing == []


def test_the_page_of_the_command_line_lists_every_option_of_edit_in_its_panel() -> None:
    rows = re.findall(r"^\| ([A-Z][a-z ]+) \| (`--.*?) \|", (ROOT / "docs/command-line.md").read_text(), re.MULTILINE)
    listed = {panel: re.findall(r"`--([\w-]+)`", names) for panel, names in rows}
    shown: dict[str, list[str]] = {}
    for each in command_line().commands["edit"].params:
        if each.param_type_name == "option":
            shown.setdefault(each.rich_help_panel, []).append(each.opts[0].removeprefix("--"))
    assert {panel: sorted(names) for panel, names in listed.items()} == {
        panel: sorted(names) for panel, names in shown.items()
    }


# Python


def check_snippet(text: str) -> None:
    """Compiles a snippet and checks the names and keywords of its calls of the package."""
    tree = ast.parse(text)
    compile(tree, "snippet", "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "loraedit":
            module = importlib.import_module(node.module or "")
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            if missing:
                raise DocumentError(f"{node.module} has no {missing[0]}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("loraedit."):
            check_call(node)


def check_call(node: ast.Call) -> None:
    name = ast.unparse(node.func).removeprefix("loraedit.")
    function = getattr(loraedit, name, None)
    if function is None:
        raise DocumentError(f"loraedit has no {name}")
    known = set(inspect.signature(function).parameters) | (set(EditSettings.model_fields) if name == "edit" else set())
    unknown = {keyword.arg for keyword in node.keywords if keyword.arg} - known
    if unknown:
        raise DocumentError(f"loraedit.{name} takes no {unknown}")


def test_python_snippets_compile_and_call_what_exists() -> None:
    found = [(path, *each) for path in DOCUMENTS for each in snippets(path.read_text(encoding="utf-8"))]
    assert any("loraedit.edit(" in text for _, _, text in found)
    for path, line, text in found:
        try:
            check_snippet(text)
        except (SyntaxError, DocumentError) as error:
            pytest.fail(f"{path.name}:{line}: {error}")


def test_toml_and_json_blocks_are_valid() -> None:
    readers = {"toml": tomllib.loads, "json": json.loads}
    found = [(path, block) for path in DOCUMENTS for block in blocks(path.read_text(encoding="utf-8"))]
    known = [(path, block) for path, block in found if block.language in readers]
    assert known
    for path, block in known:
        try:
            readers[block.language]("\n".join(block.lines))
        except ValueError as error:
            pytest.fail(f"{path.name}:{block.line}: {error}")


def test_links_lead_to_files() -> None:
    missing = [
        f"{path.name}:{line}: {target}"
        for path in DOCUMENTS
        for line, target in links(path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert missing == []


# The checks themselves


def words(text: str) -> list[tuple[str, ...]]:
    return [each.words for each in commands(Path("page.md"), text)]


def test_commands_are_found_in_blocks_and_spans() -> None:
    page = """Run `loraedit store
    --clear`, or:

    $ loraedit edit a.mp4 \\
      --prompt "red; blue"   # a note
    OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q | tail
    srun --nodes=1 loraedit store --clear && accelerate launch -m loraedit web
    srun --nodes=1 ls
    ls -la

```bash
pip install '.[web]' && loraedit web > log
```
"""
    assert words(page) == [
        ("loraedit", "edit", "a.mp4", "--prompt", "red; blue"),
        ("python", "-m", "pytest", "-q"),
        ("loraedit", "store", "--clear"),
        ("loraedit", "web"),
        ("pip", "install", ".[web]"),
        ("loraedit", "web"),
        ("loraedit", "store", "--clear"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "loraedit edit clip.mp4",
        "loraedit edit clip.mp4 --first-frame a.png --no-such-option 1",
        "loraedit edit clip.mp4 --first-frame a.png --steps many",
        "loraedit edit clip.mp4 --first-frame a.png --guidance -3",
        "loraedit fly",
        "loraedit --fly",
        "python -m benchmarks.recipes --cases many",
        "python -m benchmarks.recipes --fly",
        "python scripts/no_such_script.py",
        "python -m pytest tests/no_such_folder",
        "pip install '.[magic]'",
        "make magic",
        "make demo MAGIC=1",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    (command,) = commands(Path("page.md"), f"    {line}")
    with pytest.raises(DocumentError):
        check(command)


@pytest.mark.parametrize(
    "line",
    [
        "loraedit edit clip.mp4 --first-frame a.png --steps 3",
        "loraedit edit ... --steps 3",
        "loraedit --version",
        "python -m benchmarks.recipes --cases 2",
        "python -m pip install -e '.[dev,web]'",
        "make gpu-check MODELS=folder",
    ],
)
def test_a_right_command_passes(line: str) -> None:
    (command,) = commands(Path("page.md"), f"    {line}")
    check(command)


@pytest.mark.parametrize(
    "text",
    ["import loraedit\nloraedit.edit(1, 2, stepz=3)", "loraedit.fly()", "from loraedit import fly", "loraedit.edit("],
)
def test_a_wrong_snippet_is_noticed(text: str) -> None:
    ((_, found),) = snippets(f"```python\n{text}\n```")
    with pytest.raises((DocumentError, SyntaxError)):
        check_snippet(found)
