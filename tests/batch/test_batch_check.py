"""Models that are not on this machine are fetched before the first job begins, and only if the user asks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from batches import Inline, write_batch
from typer.testing import CliRunner

from loraedit.batch import run_batch
from loraedit.cli.main import app
from loraedit.errors import ModelError
from loraedit.families import hub


@pytest.mark.parametrize("mask", ["5,7,20,25", "auto"])
def test_a_batch_fetches_its_model_before_the_jobs_and_only_if_asked(
    mask: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    fetched: list[bool] = []

    def fetch(*_: object) -> Path:
        fetched.append((tmp_path / "out").exists())
        return Path(shutil.copytree(checkpoint, cache, dirs_exist_ok=True))

    monkeypatch.setattr(hub, "find_snapshot", lambda _: cache if cache.exists() else None)
    monkeypatch.setattr(hub, "fetch_snapshot", fetch)
    monkeypatch.setattr("loraedit.batch.run.LocalPool", Inline)
    file = write_batch(tmp_path, "some/model", 1, 1)
    file.write_text(file.read_text().replace("5,7,20,25", mask))

    with pytest.raises(ModelError, match="--download"):
        run_batch(file, gpus_per_job=0)
    assert not fetched and not (tmp_path / "out").exists()

    done = CliRunner().invoke(app, ["batch", str(file), "--gpus-per-job", "0", "--download"])
    assert done.exit_code == 0, done.output
    assert fetched and not any(fetched)  # before the batch has a folder, so not by a job
