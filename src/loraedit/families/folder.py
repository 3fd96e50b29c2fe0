"""Reads an untrusted checkpoint folder: small JSON files, names of classes, and the headers of weights files.

No code of a checkpoint is run, and no weights are read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from loraedit.errors import ModelError
from loraedit.families.model_card import CARD_FILE, CardFile
from loraedit.storage import files

__all__ = [
    "AGAIN",
    "Shapes",
    "check_components",
    "check_plain",
    "file_shapes",
    "lora_rank",
    "read_card_file",
    "read_json",
    "weights_shapes",
]

Shapes = dict[str, tuple[int, ...]]
"""Tensor shapes by name."""

AGAIN = "Fetch the checkpoint again."
TEXTS = {".json", ".model", ".txt"}
"""Suffixes of the small files of a checkpoint."""
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
NEVER = "Weights load from safetensors (a single file also from .gguf), never from pickle, which can run code."


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Returns the JSON object in a file of a checkpoint.

    Raises:
        ModelError: the file is missing, or holds no JSON object.
    """
    try:
        content = files.read_json(folder / name)
    except FileNotFoundError as error:
        raise ModelError(
            f"'{folder}' is not a checkpoint folder in diffusers layout: it has no {name}. "
            "Expected model_index.json with the folders transformer, vae, text_encoder, tokenizer and scheduler."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"'{folder / name}' cannot be read as JSON. {AGAIN}") from error
    if not isinstance(content, dict):
        raise ModelError(f"'{folder / name}' holds no JSON object. {AGAIN}")
    return content


def check_plain(folder: Path) -> None:
    """Checks that a checkpoint consists of files and folders. Reading a pipe would block, and a device has no end.

    Raises:
        ModelError: an entry is of another kind, or a broken link.
    """
    for path in (*folder.glob("*"), *folder.glob("*/*")):
        if not (path.is_file() or path.is_dir()):
            raise ModelError(f"'{path}' is neither a file nor a folder. {AGAIN}")
        if path.suffix in TEXTS and not path.is_file():
            raise ModelError(f"'{path}' is a folder, but a file was expected. {AGAIN}")


def read_card_file(folder: Path, default: CardFile) -> CardFile:
    """Returns the checkpoint's ``loraedit.json``; whatever it leaves out, or all of it, is the default's.

    Raises:
        ModelError: the file is not valid.
    """
    if not (folder / CARD_FILE).exists():
        return default
    try:
        return CardFile.model_validate(read_json(folder, CARD_FILE)).over(default)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"'{folder / CARD_FILE}' is not valid: {where}: {first['msg']}.") from error


def check_components(
    folder: Path, index: Mapping[str, Any], expected: Mapping[str, str], libraries: Collection[str]
) -> None:
    """Checks that the components named in ``model_index.json`` are of known libraries, and of the right classes.

    A model of diffusers names its class a second time, in its own folder.

    Args:
        index: the content of ``model_index.json``.
        expected: ``library.Class`` as a regular expression, by component.
        libraries: the libraries whose classes may be named.

    Raises:
        ModelError: a component is of another library or another class.
    """
    for name, value in index.items():
        if not isinstance(value, list) or value in ([], [None, None]):
            continue
        if not (len(value) == 2 and value[0] in libraries and isinstance(value[1], str)):
            raise ModelError(
                f"'{folder / 'model_index.json'}' names {value} as its {name}, which is code of its own. "
                "Only classes of diffusers and transformers are loaded; use another checkpoint."
            )
        if name in expected and not re.fullmatch(expected[name], ".".join(value)):
            raise ModelError(
                f"'{folder / 'model_index.json'}' names {value[1]} as its {name}, which does not belong to this kind "
                f"of model. {AGAIN}"
            )
    for name, pattern in expected.items():
        if pattern.startswith("diffusers") and (folder / name / "config.json").exists():
            kind = read_json(folder, f"{name}/config.json").get("_class_name")
            if kind is not None and not re.fullmatch(pattern, f"diffusers.{kind}"):
                raise ModelError(f"'{folder / name}' is a {kind}, which does not belong to this kind of model. {AGAIN}")


def file_shapes(path: Path) -> Shapes:
    """Returns the shapes of the tensors in a ``.safetensors`` or ``.gguf`` file, from its header alone.

    Raises:
        ModelError: the file is a pickle, cut short, or has wrong offsets.
    """
    _refuse_pickle(path)
    if path.suffix == ".gguf":
        return _gguf_shapes(path)
    try:
        with safe_open(path, "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError as error:
        raise ModelError(f"There is no weights file '{path}'. Check the path.") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"'{path}' is damaged or not a safetensors file ({error}). {AGAIN}") from error


def _refuse_pickle(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ModelError(f"Weights file '{path}' cannot be read: it is not a plain file. Check the path.")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise ModelError(f"Weights file '{path}' cannot be read: {error.strerror}. Check the path.") from error
    pickled = head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or head == b"PK\x03\x04"
    if pickled or path.suffix in PICKLES:
        disguise = "" if path.suffix in PICKLES else " under another name"
        raise ModelError(f"'{path}' is a pickle{disguise}. {NEVER}")


def _gguf_shapes(path: Path) -> Shapes:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ModelError(f"'{path}' needs the gguf package: pip install '.[gguf]'.") from error
    try:
        return {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in GGUFReader(path).tensors}
    except Exception as error:  # gguf raises any kind of exception while parsing
        raise ModelError(f"'{path}' is damaged or not a GGUF file ({type(error).__name__}). {AGAIN}") from error


def weights_shapes(folder: Path) -> Shapes:
    """Returns the shapes of all tensors in a component's folder, and checks that all shards of its index are complete.

    Raises:
        ModelError: a file is missing or damaged, or there are only pickles.
    """
    by_file = {path.name: file_shapes(path) for path in sorted(folder.glob("*.safetensors"))}
    for path in folder.glob("*.safetensors.index.json"):
        weight_map = read_json(folder, path.name).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"'{path}' names no files. {AGAIN}")
        missing = sorted({str(file) for file in weight_map.values()} - by_file.keys())
        if missing:
            raise ModelError(f"'{folder}' lacks {missing[0]}. {AGAIN}")
        for tensor, file in weight_map.items():
            if tensor not in by_file[file]:
                raise ModelError(f"'{folder / file}' lacks the tensor {tensor}. {AGAIN}")
    if not by_file:
        pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLES)
        details = f", only {pickles[0]}, a pickle. {NEVER}" if pickles else f". {AGAIN}"
        raise ModelError(f"'{folder}' has no .safetensors weights{details}")
    return {name: shape for shapes in by_file.values() for name, shape in shapes.items()}


def lora_rank(path: Path) -> int:
    """Returns the rank of a LoRA file, from its header; 0 if the file does not exist.

    Raises:
        ModelError: the file holds no LoRA.
    """
    if not path.exists():
        return 0
    try:
        return max(shape[0] for name, shape in file_shapes(path).items() if "lora_A" in name)
    except ValueError as error:
        raise ModelError(f"The prior '{path}' holds no LoRA. {AGAIN}") from error
