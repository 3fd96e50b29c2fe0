"""What is on this disk of the models that loraedit knows: nano, the Hub's cache, and folders that the user names."""

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
    """A checkpoint folder.

    Attributes:
        folder: where it is.
        problem: why it cannot be used, a sentence; None if it can.
    """

    folder: Path
    problem: str | None


def find_models(folders: Sequence[Path]) -> list[Found]:
    """nano, and each of the folders that is a checkpoint, or the checkpoints right under it.

    Raises:
        ModelError: a folder does not exist.
    """
    found = [_look(NANO)]
    for folder in folders:
        if not folder.is_dir():
            raise ModelError(f"'{folder}' is not a folder. Give checkpoint folders, or folders that hold some.")
        found += [_look(each) for each in _checkpoints(folder)]
    return found


def state_in_cache(model: KnownModel) -> Found | None:
    """What the Hub's cache has of a model; None if it has nothing of it. A single file counts as usable if it is there.

    The Hub itself is not asked.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(model.id, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):
        return None
    if model.single_file is None:
        return _look(folder)
    file = folder / model.single_file
    return Found(file, None) if file.exists() else Found(folder, f"'{folder}' lacks {model.single_file}.")


def _checkpoints(folder: Path) -> Iterator[Path]:
    if (folder / "model_index.json").exists():
        yield folder
    else:
        yield from sorted(path.parent for path in folder.glob("*/model_index.json"))


def _look(folder: Path) -> Found:
    try:
        read_card(folder)
    except ModelError as error:
        return Found(folder, str(error))
    return Found(folder, None)
