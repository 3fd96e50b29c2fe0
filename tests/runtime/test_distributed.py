"""Two processes that share a model give what one gives: the same LoRA, the same clip."""

from __future__ import annotations

import os
import socket
import sys
from multiprocessing import connection
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from forked import SERVER
from safetensors.torch import load_file
from scenes import Scene

from loraedit.errors import InputError
from loraedit.planning import resources_for
from loraedit.runtime.devices import find_device
from loraedit.settings import make_settings


def edit(rank: int, of: int, port: int, arguments: list[str], said: Path) -> None:
    """``loraedit edit ARGUMENTS`` as one of several processes, in float32 whatever the processor has."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(of), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    torch.cpu.get_capabilities = dict  # type: ignore[assignment]
    torch.accelerator.device_count = lambda: 1  # type: ignore[assignment]  # so that tokens are split on a CPU too
    sys.argv = ["loraedit", "edit", *arguments]
    from loraedit.cli.main import main

    main()


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


def run(of: int, arguments: list[str], folder: Path) -> None:
    port = free_port()
    said = [folder / f"said-{of}-{rank}" for rank in range(of)]
    children = [SERVER.Process(target=edit, args=(rank, of, port, arguments, said[rank])) for rank in range(of)]
    for child in children:
        child.start()
    connection.wait([child.sentinel for child in children], 60)
    for child in children:  # the others follow at once, or wait for one that has failed
        child.join(10)
        child.kill()
        child.join()
    assert [child.exitcode for child in children] == [0] * of, "".join(each.read_text() for each in said)


def saved(folder: Path, frames: np.ndarray) -> Path:
    folder.mkdir()
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index}.png"), frame[..., ::-1] if frame.ndim == 3 else frame.astype(np.uint8) * 255)
    return folder


def arguments_for(scene: Scene, folder: Path, model: Path) -> list[str]:
    clip, mask = saved(folder / "clip", scene.source), saved(folder / "mask", scene.mask)
    first = saved(folder / "first", scene.edited_first[None]) / "0.png"
    options = ["--model", str(model), "--steps", "3", "--lr", "1e-2", "--guidance", "2", "--checkpointing"]
    return [str(clip), "--first-frame", str(first), "--mask", str(mask), *options]


def test_two_processes_give_the_lora_and_the_clip_of_one(
    checkpoints: dict[str, Path], scene: Scene, tmp_path: Path
) -> None:
    common = arguments_for(scene, tmp_path, checkpoints["wan21"])
    results = {}
    for of in (1, 2):
        out = tmp_path / f"out-{of}"
        run(of, [*common, "--out", str(out), "--run", str(tmp_path / f"run-{of}")], tmp_path)
        (lora,) = (tmp_path / f"run-{of}/lora").glob("*.safetensors")
        frames = [cv2.imread(str(path)).astype(int) for path in sorted(out.glob("*.png"))]
        results[of] = load_file(lora), np.stack(frames)
    assert results[1][0].keys() == results[2][0].keys()
    assert max(float(value.abs().max()) for name, value in results[1][0].items() if "lora_B" in name) > 1e-2
    for name, value in results[1][0].items():
        torch.testing.assert_close(results[2][0][name], value, rtol=0, atol=1e-4)
    assert np.abs(results[1][1] - results[2][1]).max() <= 1


def test_options_that_several_gpus_exclude_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for settings in ({"swap_blocks": 1}, {"weights": "fp8"}):
        job = SimpleNamespace(settings=make_settings(settings), card=SimpleNamespace(files={}))
        with pytest.raises(InputError, match="cannot be combined with several GPUs"):
            resources_for(job, torch.device("cpu"))  # type: ignore[arg-type]
    file = SimpleNamespace(path="model.gguf", kinds={"blocks.0.ffn.net.2.weight": "Q4_K"})
    job = SimpleNamespace(settings=make_settings({}), card=SimpleNamespace(files={"transformer": file}))
    with pytest.raises(InputError, match=r"'model.gguf' is quantised.*Add --weights full"):
        resources_for(job, torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="uses its own device"):
        find_device("cuda:1")
