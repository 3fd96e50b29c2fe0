"""Snapshots of repositories of the Hugging Face Hub: found in the Hub's cache, or fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loraedit.errors import ModelError

__all__ = ["fetch_snapshot", "find_snapshot"]


def find_snapshot(repository: str) -> Path | None:
    """Returns the folder of a repository in the Hub's cache, complete or not; None if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def fetch_snapshot(repository: str, patterns: Sequence[str], what: str = "Model") -> Path:
    """Downloads the files of a repository that are not in the cache, and returns their folder.

    Args:
        patterns: names of the files; ``*`` stands for anything.
        what: what the repository is, for messages.

    Raises:
        ModelError: they cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{what} '{repository}' is not a folder here and could not be fetched from the Hub "
            f"({type(error).__name__}). Check the name and the connection, or give a folder."
        ) from error
