"""Claims about ``loraedit lora``: export, show and convert, and what they refuse."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest

from loraedit.cli.main import main
from loraedit.errors import InputError
from loraedit.lora.export import export


def test_export_takes_a_run_and_refuses_bad_places(finished_run: Path, tmp_path: Path) -> None:
    (written,) = (finished_run / "lora").iterdir()
    (out,) = export(finished_run, tmp_path / "x.safetensors", "comfyui")
    assert out.read_bytes() == written.read_bytes()
    for source, name, form, message in (
        (finished_run, "x.mp4", "comfyui", "not a .safetensors file"),
        (finished_run, "x.safetensors", "kohya", "no format 'kohya'"),
        (out, "x.safetensors", "musubi", "the input itself"),
        (tmp_path, "y.safetensors", "musubi", "is not a run folder"),
    ):
        with pytest.raises(InputError, match=message):
            export(source, tmp_path / name, form)


def test_the_commands_show_convert_and_refuse(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["loraedit", "lora", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return (int(stopped.value.code or 0), *capsys.readouterr())

    kohya, bad = tmp_path / "kohya.safetensors", tmp_path / "bad.safetensors"
    code, _, message = call("export", finished_run, "--format", "musubi", "--out", kohya)
    assert code == 0 and "kohya.safetensors" in message
    facts = json.loads(call("show", kohya, "--json")[1])
    assert facts["first_key"].startswith("lora_unet_blocks_0_") and facts["ranks"] == [2]
    assert "self_attn.q x2" in call("show", kohya)[1]
    bad.write_bytes(pickle.dumps({}))
    code, _, message = call("convert", bad, tmp_path / "no.safetensors", "--format", "comfyui")
    assert (code, message.count("\n")) == (2, 1)
    assert not (tmp_path / "no.safetensors").exists()
