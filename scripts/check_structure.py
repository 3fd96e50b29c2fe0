"""Checks the structure of the repository: layers, import circles, and the sizes of files, functions and folders.

    python scripts/check_structure.py [REPOSITORY]

Prints one line per problem and exits with 1 if there is any. In src/loraedit, a module may import from its own layer
and from the layers below it. A new folder needs a place in ``LAYERS``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "loraedit"
BESIDE = ("benchmarks", "examples", "pretrain", "scripts", "tests")
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
MAX_ROOT_FILES = 7

# From top to bottom. A name stands for a folder of the package or for a module beside the folders.
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
    ("types", "errors", "phases", "version"),
)
DEPTH = {unit: depth for depth, units in enumerate(LAYERS) for unit in units}


@dataclass(frozen=True)
class Module:
    """One file of the package.

    Attributes:
        name: the dotted name; that of the folder for an ``__init__.py``.
        path: the file.
        unit: the folder or module of ``LAYERS`` to which it belongs; the package itself has its own name as unit.
        tree: the syntax tree.
    """

    name: str
    path: Path
    unit: str
    tree: ast.Module


def read_modules(source: Path) -> dict[str, Module]:
    """Parses every file below ``source/loraedit``; returns the modules by dotted name."""
    modules = {}
    for path in sorted((source / PACKAGE).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        unit = parts[1] if len(parts) > 1 else PACKAGE
        name = ".".join(parts)
        modules[name] = Module(name, path, unit, ast.parse(path.read_text()))
    return modules


def imports_of(module: Module, modules: Mapping[str, Module]) -> Iterator[tuple[int, str]]:
    """Yields line and name of each module of the package that a module imports, anywhere in its file."""
    is_folder = module.path.name == "__init__.py"
    package = module.name.split(".") if is_folder else module.name.split(".")[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in _imported_names(node, package):
                target = name if name in modules else name.rpartition(".")[0]
                if target in modules:
                    yield node.lineno, target


def _imported_names(node: ast.Import | ast.ImportFrom, package: list[str]) -> list[str]:
    """Returns the dotted names that a statement imports; ``package`` is the origin of relative imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parents = package[: len(package) - node.level + 1] if node.level else []
    base = ".".join([*parents, *([node.module] if node.module else [])])
    return [f"{base}.{alias.name}" for alias in node.names]


def layer_problems(modules: Mapping[str, Module]) -> Iterator[str]:
    """Yields imports from a higher layer, and folders without a layer."""
    for unit in sorted({module.unit for module in modules.values()} - {PACKAGE, *DEPTH}):
        yield f"src/{PACKAGE}/{unit}: no layer is known for {unit!r}; add it to LAYERS in scripts/check_structure.py"
    for module in modules.values():
        for line, name in imports_of(module, modules):
            unit = modules[name].unit
            known = module.unit in DEPTH and unit in DEPTH
            if known and DEPTH[unit] < DEPTH[module.unit]:
                yield f"{module.path}:{line}: {module.unit} imports {name}, but {unit} is a higher layer"


def circle_problems(modules: Mapping[str, Module]) -> Iterator[str]:
    """Yields the circles in the imports between modules, and in those between folders."""
    between_modules: dict[str, set[str]] = {}
    between_units: dict[str, set[str]] = {}
    for module in modules.values():
        targets = {name for _, name in imports_of(module, modules)} - {module.name}
        between_modules[module.name] = targets
        if module.unit != PACKAGE:
            units = {modules[name].unit for name in targets} - {module.unit}
            between_units.setdefault(module.unit, set()).update(units)
    for kind, graph in (("modules", between_modules), ("folders", between_units)):
        for circle in circles(graph):
            yield f"{kind} import each other in a circle: {' -> '.join(circle)}"


def circles(graph: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Yields circles whose removal leaves none; each starts and ends with the same node.

    Args:
        graph: what each node imports.
    """
    rest = {node: set(targets) for node, targets in graph.items()}
    while True:
        try:
            TopologicalSorter(rest).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]
            yield circle
            rest[circle[-2]].remove(circle[-1])
        else:
            return


def size_problems(path: Path) -> Iterator[str]:
    """Yields whether a file, or a function in it, is too long."""
    text = path.read_text()
    lines = len(text.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{path}: {lines} lines, {MAX_FILE_LINES} allowed; split the file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name}() has {lines} lines, {MAX_FUNCTION_LINES} allowed; split it"


def root_problems(folder: Path) -> Iterator[str]:
    """Yields whether too many files lie in the package itself rather than in its folders."""
    files = len(list(folder.glob("*.py")))
    if files > MAX_ROOT_FILES:
        yield f"{folder}: {files} Python files directly in it, {MAX_ROOT_FILES} allowed; move some into folders"


def test_folder_problems(repository: Path) -> Iterator[str]:
    """Yields folders of tests that mirror no folder of the package or of the repository."""
    known = {path.name for path in (*(repository / "src" / PACKAGE).iterdir(), *repository.iterdir())} | {"support"}
    for folder in sorted((repository / "tests").glob("*/")):
        if any(folder.glob("*.py")) and folder.name not in known:
            yield f"{folder}: mirrors no folder of src/{PACKAGE} or of the repository; rename it"


def problems_of(repository: Path) -> Iterator[str]:
    """Yields every problem of a repository."""
    modules = read_modules(repository / "src")
    yield from layer_problems(modules)
    yield from circle_problems(modules)
    yield from root_problems(repository / "src" / PACKAGE)
    yield from test_folder_problems(repository)
    for folder in (f"src/{PACKAGE}", *BESIDE):
        for path in sorted((repository / folder).rglob("*.py")):
            yield from size_problems(path)


def main(repository: Path) -> int:
    """Prints every problem; returns the exit status."""
    problems = list(problems_of(repository))
    for text in problems:
        print(text)
    print(f"Structure check: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'} found.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path()))
