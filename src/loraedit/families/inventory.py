"""Lists the models on this machine: nano, models in the Hub's cache, and folders that the user names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loraedit.errors import ModelError
from loraedit.families.card import NANO, read_card
from loraedit.families.known import KnownModel

__all__ = ["Found", "find_models", "state_in_cache"]


@dataclass(frozen=True)
class Found:
    """A checkpoint that was found.

    Attributes:
        folder: the checkpoint folder, or the single file.
        problem: why it cannot be used, as a sentence; None if it is usable.
    """

    folder: Path
    problem: str | None


def find_models(folders: Sequence[Path]) -> list[Found]:
    """Returns nano, and for each folder the checkpoint that it is, or the checkpoints directly in it.

    Raises:
        ModelError: a folder does not exist.
    """
    found = [_check(NANO)]
    for folder in folders:
        if not folder.is_dir():
            raise ModelError(
                f"'{folder}' is not a folder. Give checkpoint folders, or folders that contain checkpoints."
            )
        found += [_check(checkpoint) for checkpoint in _checkpoints(folder)]
    return found


def state_in_cache(model: KnownModel) -> Found | None:
    """Returns a model's state in the Hub's cache, or None if it is not there. The Hub itself is not contacted.

    A model published as a single file is usable if the file exists.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model.id, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None
    if model.single_file is None:
        return _check(folder)
    file = folder / model.single_file
    return Found(file, None) if file.exists() else Found(folder, f"'{folder}' lacks {model.single_file}.")


def _checkpoints(folder: Path) -> Iterator[Path]:
    if (folder / "model_index.json").exists():
        yield folder
    else:
        yield from sorted(path.parent for path in folder.glob("*/model_index.json"))


def _check(folder: Path) -> Found:
    try:
        read_card(folder)
    except ModelError as error:
        return Found(folder, str(error))
    return Found(folder, None)
