"""Bad input is refused before torch loads, which takes more than a second."""

from __future__ import annotations

import subprocess
import sys

LIGHT = (
    "types", "errors", "settings", "storage.files", "video", "masks", "tracking", "runs.folder", "families.card",
    "job.edits", "job.prepare", "mask_maker.make", "evaluate", "batch.check", "web.server", "cli.main",
)  # fmt: skip
CODE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"loraedit.{name}")
    if "torch" in sys.modules:
        sys.exit(f"loraedit.{name} imports torch")
"""


def test_input_checks_do_not_import_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
