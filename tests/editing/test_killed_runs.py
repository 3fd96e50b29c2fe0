"""A run that is killed at any moment continues and ends with the same bytes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import forked
import numpy as np
from scenes import make_scene

from loraedit.types import Clip
from loraedit.video import write_clip, write_image


def command(folder: Path, model: Path, name: str) -> list[str]:
    """Returns the arguments of an edit that writes ``NAME.mkv`` and the run folder ``NAME``."""
    return [
        "edit", str(folder / "source.mkv"),
        "--first-frame", str(folder / "edited.png"), "--mask", str(folder / "mask.mkv"), "--model", str(model),
        "--reference", f"4={folder / 'last.png'}", "--steps", "60", "--sampling-steps", "40",
        "--out", str(folder / f"{name}.mkv"), "--run", str(folder / name), "--segment-frames", "5", "--json",
    ]  # fmt: skip


def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_bytes(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Two experts, two segments and a reference give every kind of state that can be lost."""
    scene = make_scene(frames=9)
    write_clip(tmp_path / "source.mkv", Clip(scene.source, Fraction(10)))
    write_clip(tmp_path / "mask.mkv", Clip(np.repeat(scene.mask[..., None] * np.uint8(255), 3, -1), Fraction(10)))
    write_image(tmp_path / "edited.png", scene.edited_first)
    write_image(tmp_path / "last.png", scene.source[-1] // 2)
    model = checkpoints["wan22"]
    done = forked.run(command(tmp_path, model, "whole"))
    assert json.loads(done.stdout)["outside_exact"] is True
    moments = [
        "cache/clip-*",
        "checkpoints/motion-*",
        "checkpoints/appearance-*",
        "cache/latents-*/0007*",
        ".frames*",
    ]
    killed = [forked.kill_when(command(tmp_path, model, "parts"), tmp_path / "parts", moment) for moment in moments]
    assert all(killed[:4])
    assert forked.run(command(tmp_path, model, "parts")).returncode == 0
    assert (tmp_path / "parts.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert forked.contents(tmp_path / "parts") == forked.contents(tmp_path / "whole")
