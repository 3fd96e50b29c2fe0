"""The captioning model of ``--captioner``: known by name, checked by its configuration, fetched last.

Florence-2 and the Qwen-VL models are supported, in the layout of transformers' own classes.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from loraedit.errors import InputError, ModelError
from loraedit.families.hub import on_hub
from loraedit.settings import ResolvedSettings
from loraedit.storage.files import read_json
from loraedit.storage.hub import fetch_snapshot, find_snapshot
from loraedit.types import Progress

__all__ = [
    "AUTO",
    "CAPTIONERS",
    "FLORENCE",
    "KnownCaptioner",
    "captioner_type",
    "check_captioner",
    "download_captioner",
    "find_captioner",
    "wants_captions",
]

AUTO = "auto"
"""The prompt that asks the captioner."""

FLORENCE = "florence2"
"""The ``model_type`` of Florence-2."""

SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class KnownCaptioner:
    """A published captioner that transformers' own classes load.

    Attributes:
        name: its name for ``--captioner``.
        id: repository on the Hub.
        licence: licence of the weights.
        gigabytes: size of the weights at 2 bytes a parameter, in 10^9 bytes.
    """

    name: str
    id: str
    licence: str
    gigabytes: float


CAPTIONERS = (
    KnownCaptioner("florence-2", "florence-community/Florence-2-large", "MIT", 1.6),
    KnownCaptioner("florence-2-base", "florence-community/Florence-2-base", "MIT", 0.5),
    KnownCaptioner("qwen3-vl", "Qwen/Qwen3-VL-2B-Instruct", "Apache-2.0", 4.3),
    KnownCaptioner("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", "Apache-2.0", 8.9),
)


def wants_captions(settings: ResolvedSettings) -> bool:
    """Returns True if the captioner has something to write."""
    return AUTO in (settings.prompt, settings.source_prompt)


def check_captioner(settings: ResolvedSettings) -> None:
    """Checks the captioner of an edit that needs one by its small files; with ``download`` these are fetched.

    Raises:
        InputError: there is none, its name is not known, or a library is missing.
        ModelError: it is not on this machine, or it is not a captioner.
    """
    if not wants_captions(settings):
        return
    if settings.captioner is None:
        raise InputError(f"A prompt of 'auto' needs --captioner. {_known_names()}")
    folder = find_captioner(settings.captioner, settings.download)
    if captioner_type(folder) != FLORENCE and importlib.util.find_spec("torchvision") is None:
        raise InputError(
            "Qwen-VL captioners need torchvision. Install it with: pip install '.[captions]', or use florence-2."
        )
    missing = _missing_weights(folder)
    if missing and not (settings.download and _hub_id(settings.captioner)):
        raise ModelError(f"Captioner '{settings.captioner}' lacks {missing}. {_how_to_fetch(settings.captioner)}")


def find_captioner(captioner: str, download: bool = False) -> Path:
    """Finds the folder of a name, of a path, or of a Hub id in the Hub's cache.

    Args:
        download: fetch the small files of a captioner that is not in the cache.

    Raises:
        InputError: the name is not known.
        ModelError: it is not in the cache, or cannot be fetched.
    """
    hub_id = _hub_id(captioner)
    if hub_id is None:
        return _folder(captioner)
    found = find_snapshot(hub_id)
    if found is not None and (found / "config.json").exists():
        return found
    if not download:
        raise ModelError(f"Captioner '{captioner}' is not on this machine. {_how_to_fetch(captioner)}")
    return fetch_snapshot(hub_id, SMALL_FILES, "Captioner")


def captioner_type(folder: Path) -> str:
    """Reads the model type of a captioner from its configuration.

    Raises:
        ModelError: it is not one of the supported types, or it needs code of its own.
    """
    try:
        config = read_json(folder / "config.json")
        kind = str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"'{folder}' is no captioner: it has no config.json with a model type. {_known_names()}"
        ) from error
    if not (kind == FLORENCE or (kind.startswith("qwen") and "_vl" in kind)):
        raise ModelError(f"'{folder}' is a {kind} model. Use a Florence-2 or a Qwen-VL model with --captioner.")
    if "auto_map" in config:
        raise ModelError(
            f"'{folder}' needs Python code of its own, which loraedit does not run. Use a checkpoint in transformers' "
            "own layout, such as --captioner florence-2."
        )
    return kind


def download_captioner(settings: ResolvedSettings, progress: Progress) -> None:
    """Downloads what is missing of the weights of a captioner that is needed.

    Args:
        settings: as :func:`check_captioner` accepts them.
        progress: called with the phase "download" before and after the download; the note says what is fetched.

    Raises:
        ModelError: the weights cannot be fetched.
    """
    captioner = settings.captioner
    if captioner is None or not wants_captions(settings) or not _missing_weights(find_captioner(captioner)):
        return
    hub_id = _hub_id(captioner) or captioner
    progress("download", 0, 1, ", ".join(part for part in (hub_id, _size(captioner)) if part))
    folder = fetch_snapshot(hub_id, [*SMALL_FILES, "*.safetensors"], "Captioner")
    progress("download", 1, 1, "")
    if missing := _missing_weights(folder):
        raise ModelError(f"Captioner '{captioner}' lacks {missing}: its weights are not published as safetensors.")


def _known(captioner: str) -> KnownCaptioner | None:
    return next((each for each in CAPTIONERS if captioner.lower() in (each.name, each.id.lower())), None)


def _hub_id(captioner: str) -> str | None:
    """Returns the Hub id of a captioner, or None if it is a folder.

    Raises:
        InputError: it is none of both.
    """
    known = _known(captioner)
    if known is not None and captioner.lower() == known.name:
        return known.id
    if captioner and _folder(captioner).is_dir():
        return None
    if on_hub(captioner):
        return captioner
    close = difflib.get_close_matches(captioner.lower(), [each.name for each in CAPTIONERS], 1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise InputError(f"There is no captioner '{captioner}'.{hint} {_known_names()}")


def _folder(captioner: str) -> Path:
    return Path(os.path.expanduser(captioner))  # noqa: PTH111 (Path.expanduser raises for an unknown user)


def _known_names() -> str:
    names = ", ".join(each.name for each in CAPTIONERS)
    return f"Known are {names}; a folder or a Hub id of a Florence-2 or Qwen-VL model works too."


def _size(captioner: str) -> str:
    known = _known(captioner)
    return f"{known.gigabytes} GB" if known else ""


def _how_to_fetch(captioner: str) -> str:
    if _hub_id(captioner) is None:
        return "Give a complete folder with safetensors files."
    size = f" ({_size(captioner)})" if _size(captioner) else ""
    return f"Add --download to fetch it from the Hub{size}, or give a folder."


def _missing_weights(folder: Path) -> str | None:
    """Returns the name of a file of the weights that is not there, or None if all are."""
    try:
        names = sorted(set(read_json(folder / f"{WEIGHTS}.index.json")["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        names = [WEIGHTS]
    return next((name for name in names if not (folder / name).is_file()), None)
