"""Bad input is refused before torch loads, which takes more than a second."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = ["cli.main", "evaluate", "families.card", "job.edits", "job.prepare", "masks", "runs.folder", "settings", "video"]


@pytest.mark.parametrize("module", [f"loraedit.{name}" for name in LIGHT])
def test_what_checks_input_does_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
