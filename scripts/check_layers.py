"""Fail if an import in src/loraedit runs upward, or if a file there or beside it has grown too long.

    python scripts/check_layers.py [PACKAGE_FOLDER]

A module may import from its own layer and from those below it. A new module needs a place in the table.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "loraedit"
MAX_LINES = 400
BESIDE = ("benchmarks", "examples", "pretrain", "scripts", "tests")

# From top to bottom. A name stands for a module or for a whole sub-package.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("web",),
    ("batch",),
    ("editing", "evaluate", "mask_maker"),
    ("planning",),
    ("job", "training", "sampling"),
    ("lora",),
    ("families",),
    ("runs", "propagation", "diffusion"),
    ("tracking",),
    ("masks", "optical_flow"),
    ("video", "runtime"),
    ("settings", "storage"),
    ("types", "errors", "version"),
)
DEPTH = {unit: depth for depth, units in enumerate(LAYERS) for unit in units}


def unit_of(module: str) -> str | None:
    """``loraedit.families.wan`` -> ``families``; None for the package itself and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything imported; ``package`` is what a relative import starts from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            whole_package = base == PACKAGE
            yield from ((node.lineno, f"{base}.{alias.name}" if whole_package else base) for alias in node.names)


def import_problems(path: Path, root: Path) -> Iterator[str]:
    """What is wrong with one file's imports."""
    inside = path.relative_to(root).with_suffix("").parts
    importer = inside[0]
    if importer == "__init__":
        return  # the package's own face may show any module
    if importer not in DEPTH:
        yield f"{path}: {importer} has no layer; give it a place in scripts/check_layers.py"
        return
    for line, module in imported_modules(ast.parse(path.read_text()), ".".join([PACKAGE, *inside[:-1]])):
        unit = unit_of(module)
        if unit in DEPTH and DEPTH[unit] < DEPTH[importer]:
            yield f"{path}:{line}: {importer} imports {module}, which lies above it"


def length_problems(path: Path) -> Iterator[str]:
    """Whether one file is too long."""
    lines = len(path.read_text().splitlines())
    if lines > MAX_LINES:
        yield f"{path}: {lines} lines, at most {MAX_LINES} allowed; split it"


def main(root: Path) -> int:
    """Print every problem; return the exit status."""
    files = sorted(root.rglob("*.py"))
    beside = [path for folder in BESIDE for path in sorted(Path(folder).rglob("*.py"))]
    problems = [text for path in files for text in import_problems(path, root)]
    problems += [text for path in (*files, *beside) for text in length_problems(path)]
    for text in problems:
        print(text)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("src") / PACKAGE))
