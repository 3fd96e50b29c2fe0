"""Bad input is refused before torch loads, which takes more than a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

LIGHT = (
    "types", "errors", "settings", "storage.files", "video", "masks", "tracking", "runs.folder", "families.card",
    "families.skeleton", "lora.extra", "job.edits", "job.prepare", "mask_maker.make", "evaluate", "batch.check",
    "web.server", "cli.main",
)  # fmt: skip
CODE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"loraedit.{name}")
    if "torch" in sys.modules:
        sys.exit(f"loraedit.{name} imports torch")
"""

DEMO = Path(__file__).parents[1] / "examples/pedestrian"
CLIP = [str(DEMO / "source.mkv"), "--first-frame", str(DEMO / "first_frame_edited.png")]
REFUSED = {
    "plan: model": ["plan", "--size", "64x64", "--frames", "9", "--model", "no-such-model"],
    "plan: model, with a clip": ["plan", *CLIP, "--model", "no-such-model"],
    "plan: transformer": ["plan", *CLIP, "--transformer", "no-such.gguf"],
    "plan: clip": ["plan", "no-such.mp4", "--first-frame", "no-such.png"],
    "plan: size": ["plan", "--size", "64", "--frames", "9"],
    "edit: model": ["edit", *CLIP, "--model", "no-such-model"],
    "lora show": ["lora", "show", "no-such.safetensors"],
    "lora convert": ["lora", "convert", "no-such.safetensors", "out.safetensors", "--format", "musubi"],
    "lora export": ["lora", "export", "no-such-run", "--out", "out.safetensors", "--format", "comfyui"],
    "lora format": ["lora", "convert", "no-such.safetensors", "out.safetensors", "--format", "zip"],
    "evaluate": ["evaluate", "no-such-run"],
    "repeat": ["repeat", "no-such-run"],
    "mask": ["mask", "no-such.mp4", "--from-edit", "no-such.png", "--out", "mask.mkv"],
    "batch": ["batch", "no-such.toml"],
}
COMMANDS = """
import json, sys
from typer.testing import CliRunner
from loraedit.cli.main import app
from loraedit.errors import LoraEditError
for name, arguments in json.load(sys.stdin).items():
    done = CliRunner().invoke(app, arguments)
    if not isinstance(done.exception, LoraEditError):
        sys.exit(f"{name}: {done.exception!r} {done.output}")
    if "torch" in sys.modules:
        sys.exit(f"{name}: imports torch")
"""


def test_input_checks_do_not_import_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_refused_without_torch(commands: dict[str, list[str]], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], input=json.dumps(commands), cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_commands_refuse_bad_input_without_importing_torch(tmp_path: Path) -> None:
    check_refused_without_torch(REFUSED, tmp_path)


def test_an_extra_lora_that_does_not_fit_is_refused_without_importing_torch(tmp_path: Path) -> None:
    save_file({"blocks.0.attn1.to_q.weight": np.zeros((8, 8), np.float32)}, tmp_path / "model.safetensors")
    layer = "diffusion_model.blocks.0.self_attn.q"
    pair = {
        f"{layer}.lora_A.weight": np.zeros((2, 8), np.float32),
        f"{layer}.lora_B.weight": np.zeros((8, 2), np.float32),
    }
    save_file(pair, tmp_path / "other.safetensors")
    names = ("model", "other")
    check_refused_without_torch({n: ["edit", *CLIP, "--extra-lora", f"{n}.safetensors"] for n in names}, tmp_path)
