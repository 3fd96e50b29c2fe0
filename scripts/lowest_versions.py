"""Prints pip constraints that hold every requirement of pyproject.toml at its lowest version.

    python -m scripts.lowest_versions [EXTRA ...] > constraints.txt

A bound must be the number of a release, in full: ``>=4.10.0.84`` becomes ``==4.10.0.84``.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def constraints(project: dict[str, Any], extras: Iterable[str]) -> Iterator[str]:
    """Yields a line for each requirement of a project and of some of its extras.

    Args:
        project: the table ``project`` of a pyproject.toml.
        extras: names of optional dependencies; a requirement without a lower bound is left out.
    """
    texts = [*project["dependencies"], *(text for name in extras for text in project["optional-dependencies"][name])]
    for requirement in map(Requirement, texts):
        for each in requirement.specifier:
            if each.operator == ">=":
                yield f"{requirement.name}=={each.version}"


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="optional dependencies to hold low as well")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the constraints."""
    options = argument_parser().parse_args(arguments)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print(*constraints(project, options.extras), sep="\n")


if __name__ == "__main__":
    main()
