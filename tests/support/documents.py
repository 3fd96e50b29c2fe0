"""Finds the commands, options, Python snippets and links in the Markdown documents of the repository."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCUMENTS", "ROOT", "Command", "blocks", "commands", "links", "options", "snippets"]

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "docs/*.md", "pretrain/*.md", "examples/*/*.md")
    for path in ROOT.glob(pattern)
)
PROGRAMS = ("loraedit", "make", "python", "python3", "pip")
LAUNCHERS = ("accelerate", "srun", "torchrun")
"""Programs that start loraedit in several processes or on another machine."""
FENCE = re.compile(r"^ *(```|~~~) *(\w*)")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Command:
    """Holds a command that a document shows.

    Attributes:
        place: file and line, for messages.
        words: the program without its folder, and its arguments.
        whole: True if the document shows all arguments; False for a mention in running text and for an elision
            (``...``).
    """

    place: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class Block:
    """Holds a fenced or indented block: the number of its first line, the language of its fence, and its lines."""

    line: int
    language: str
    lines: tuple[str, ...]


def commands(path: Path, text: str) -> Iterator[Command]:
    """Yields every command of the package, of make, Python and pip in the blocks and code spans of a document."""
    for block in blocks(text):
        joined = re.sub(r"\\\n\s*", lambda found: " " + "\0" * found[0].count("\n"), "\n".join(block.lines))
        number = block.line
        for line in joined.split("\n"):
            yield from _commands_of(f"{path.name}:{number}", line.replace("\0", ""), shown=True)
            number += 1 + line.count("\0")
    for number, span in spans(text):
        yield from _commands_of(f"{path.name}:{number}", span, shown=False)


def blocks(text: str) -> Iterator[Block]:
    """Yields fenced blocks, and blocks indented by four columns or more after an empty line."""
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        fence, start = FENCE.match(lines[number]), number
        if fence:
            number += 1
            while number < len(lines) and not lines[number].strip().startswith(fence[1]):
                number += 1
            yield Block(start + 2, fence[2], tuple(lines[start + 1 : number]))
        elif _indented(lines[number]) and (number == 0 or not lines[number - 1].strip()):
            while number < len(lines) and (_indented(lines[number]) or not lines[number].strip()):
                number += 1
            yield Block(start + 1, "", tuple(lines[start:number]))
            continue
        number += 1


def _indented(line: str) -> bool:
    return line.startswith("    ") and bool(line.strip())


def spans(text: str) -> Iterator[tuple[int, str]]:
    """Yields line and content of every code span outside of blocks; a span may continue on the next line."""
    lines = text.split("\n")
    for block in blocks(text):
        first = block.line - 1
        lines[first : first + len(block.lines)] = [""] * len(block.lines)
    plain = "\n".join("" if FENCE.match(line) else line for line in lines)
    for found in SPAN.finditer(plain):
        if "\n\n" not in found[1]:
            yield plain.count("\n", 0, found.start()) + 1, " ".join(found[1].split())


def _commands_of(place: str, line: str, shown: bool) -> Iterator[Command]:
    line = line.strip().removeprefix("$ ")
    start = re.sub(r"^([A-Z_]+=\S+ +)+", "", line)
    if not re.match(rf"(\S*/)?({'|'.join((*PROGRAMS, *LAUNCHERS))}) \S", start):
        return
    lexer = shlex.shlex(start, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for words in _split(list(lexer)):
        if words[0] in LAUNCHERS and "loraedit" in words:
            words = words[words.index("loraedit") :]
        program = words[0].rpartition("/")[2]
        if program in PROGRAMS:
            arguments = [word for word in words[1:] if word not in ("...", "…")]
            whole = shown and len(arguments) == len(words) - 1
            yield Command(place, (program, *arguments), whole)


def _split(words: list[str]) -> Iterator[list[str]]:
    """Yields the parts of a line between ``&&``, ``|`` and ``;``, each up to a redirection."""
    part: list[str] = []
    for word in [*words, ";"]:
        if word in ("&&", "||", "|", ";", "&"):
            end = next((index for index, each in enumerate(part) if each in ("<", ">", ">>")), len(part))
            if part[:end]:
                yield part[:end]
            part = []
        else:
            part.append(word)


def options(text: str) -> Iterator[tuple[int, str]]:
    """Yields line and name of every ``--option`` in a code span that starts with an option or one of our programs."""
    for number, span in spans(text):
        if span.startswith("--") or span.split()[0] in PROGRAMS:
            yield from ((number, name) for name in OPTION.findall(span))


def snippets(text: str) -> Iterator[tuple[int, str]]:
    """Yields first line and text of every block in Python."""
    for block in blocks(text):
        content = "\n".join(block.lines)
        if block.language in ("python", "py") or (
            not block.language and re.match(r"\s*(import|from) \w+|.*\bloraedit\.\w+\(", content)
        ):
            indent = min((len(line) - len(line.lstrip()) for line in block.lines if line.strip()), default=0)
            yield block.line, "\n".join(line[indent:] for line in block.lines)


def links(text: str) -> Iterator[tuple[int, str]]:
    """Yields line and target of every link to a file."""
    for number, line in enumerate(text.split("\n"), 1):
        yield from ((number, target) for target in LINK.findall(line) if "://" not in target)
