"""Bad input is refused before torch loads, which takes more than a second."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

LIGHT = ["app.cli", "compose", "config", "edits", "evaluate", "inputs", "masks", "report", "results", "types", "video"]


@pytest.mark.parametrize("module", [f"loraedit.{name}" for name in LIGHT])
def test_input_checks_do_not_import_torch(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"there is no {module}")
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
