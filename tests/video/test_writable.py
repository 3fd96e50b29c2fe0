"""A path that cannot be written is refused before hours of work, and the check leaves no trace."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from loraedit import video
from loraedit.errors import InputError
from loraedit.types import Clip


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "folder", "new/deeper/clip.mp4"])
def test_a_writable_place_is_accepted_and_left_alone(tmp_path: Path, name: str) -> None:
    video.check_writable(tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_an_existing_clip_may_be_written_over(tmp_path: Path) -> None:
    for name in ("clip.mp4", "folder"):
        video.write_clip(tmp_path / name, Clip(np.zeros((2, 16, 16, 3), np.uint8), Fraction(24)))
        video.check_writable(tmp_path / name)
        assert len(video.read_clip(tmp_path / name)) == 2


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is not a folder"):
        video.check_writable(tmp_path / "file" / "new" / "clip.mp4")


def test_a_target_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="exists and is not a file"):
        video.check_writable(tmp_path / "folder.mp4")
    with pytest.raises(InputError, match="exists and is not a folder"):
        video.check_writable(tmp_path / "file")


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        video.check_writable(tmp_path / f"{'a' * 300}.mp4")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that nobody can write to")
def test_a_folder_in_which_no_file_can_be_created_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written"):
        video.check_writable(Path("/proc/self/clip.mp4"))
