"""The workflow of ``loraedit lora``: shows a LoRA file, converts it to another public form, exports that of a run."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from loraedit.errors import InputError
from loraedit.families.layer_names import native_name
from loraedit.lora.extra import NOISES
from loraedit.lora.header import read_header
from loraedit.lora.keys import ADAPTER_METADATA, LoraFormat
from loraedit.runs.folder import lora_files
from loraedit.storage.files import METADATA_KEY
from loraedit.storage.paths import check_apart, unusable_paths_refused

__all__ = ["Precision", "convert", "describe", "export"]

Precision = Literal["keep", "fp32", "bf16", "fp16"]

EXPERTS = dict(zip(("transformer", "transformer_2"), NOISES, strict=True))
"""The noise that each transformer of a model with two is for. A run may have trained only the second one."""


@unusable_paths_refused()
def convert(source: Path, out: Path, form: str, precision: str = "keep") -> Path:
    """Converts a LoRA file of any public kind to another; the same file gives the same bytes.

    Args:
        form: one of :data:`~loraedit.lora.keys.LoraFormat`.
        precision: one of :data:`Precision`; ``keep`` stores the values of the file unchanged.

    Returns:
        The file written.

    Raises:
        InputError: the form or the precision is unknown, or the output cannot be used.
        ModelError: the file is not a LoRA, or the form cannot store it.
    """
    wanted = _check_out(out, form, precision, source)
    read_header(source)  # refuses a bad file before torch loads
    from loraedit.lora.reading import read_lora
    from loraedit.lora.writing import DTYPES, write_lora

    write_lora(out, read_lora(source), wanted, DTYPES[precision])
    return out


@unusable_paths_refused()
def export(source: Path, out: Path, form: str, precision: str = "keep") -> list[Path]:
    """Writes the LoRA of a finished run, or of a file, for another program.

    Args:
        source: a run folder or a LoRA file.
        out: the file to write. For a run of several objects, ``-0`` and so on is added to the name; for a model with
            two experts, ``-high`` or ``-low``.
        form: see :func:`convert`.
        precision: see :func:`convert`.

    Returns:
        The files written.

    Raises:
        InputError: the run is not finished or trained no LoRA; or see :func:`convert`.
        ModelError: see :func:`convert`.
    """
    if not source.is_dir():
        return [convert(source, out, form, precision)]
    files = lora_files(source)
    places = [out.with_name(f"{out.stem}{suffix}{out.suffix}") for suffix in _name_suffixes(files)]
    for file, place in zip(files, places, strict=True):
        _check_out(place, form, precision, file)
    return [convert(file, place, form, precision) for file, place in zip(files, places, strict=True)]


def _name_suffixes(files: Sequence[Path]) -> list[str]:
    """Returns a distinct suffix for each LoRA file of a run.

    Args:
        files: named ``COURSE-EXPERT-KEY``, the files of each object next to each other.
    """
    experts = sorted({file.stem.split("-")[1] for file in files})
    noises = [""] if experts == ["transformer"] else [f"-{EXPERTS[expert]}" for expert in experts]
    objects = len(files) // len(noises)
    return [f"-{number}{noise}" if objects > 1 else noise for number in range(objects) for noise in noises]


def _check_out(out: Path, form: str, precision: str, source: Path) -> LoraFormat:
    if form not in get_args(LoraFormat):
        raise InputError(f"There is no format '{form}'. Expected {', '.join(get_args(LoraFormat))}.")
    if precision not in get_args(Precision):
        raise InputError(f"There is no precision '{precision}'. Expected {', '.join(get_args(Precision))}.")
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"The output '{out}' is not a .safetensors file. Give --out a name such as lora.safetensors.")
    check_apart(source, out, exactly=True)
    wanted: LoraFormat = form  # type: ignore[assignment]
    return wanted


@unusable_paths_refused()
def describe(path: Path) -> dict[str, Any]:
    """Describes a LoRA file as JSON values, from its header alone.

    Raises:
        ModelError: the file is not a LoRA.
    """
    lora = read_header(path)
    ranks = Counter(layer.rank for layer in lora.layers.values())
    scales = {layer.alpha / layer.rank for layer in lora.layers.values()}
    metadata = {name: _parsed(text) for name, text in sorted(lora.metadata.items()) if name != ADAPTER_METADATA}
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "first_key": next(iter(sorted(lora.key_types))),
        "precisions": sorted(set(lora.key_types.values())),
        "base": _base(metadata),
        "ranks": sorted(ranks),
        "scales": sorted(scales),
        "layers": _counted(list(lora.layers)),
        "whole_differences": _counted(list(lora.differences)),
        "metadata": metadata,
    }


def _counted(names: list[str]) -> dict[str, int]:
    """Counts how many blocks have each layer, by its native name."""
    return dict(Counter(re.sub(r"blocks\.\d+\.", "blocks.*.", native_name(name)) for name in names))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _base(metadata: dict[str, Any]) -> str | None:
    """Returns the model that the LoRA was made for, or None if the file does not state it."""
    own = metadata.get(METADATA_KEY)
    names = [own.get("base") if isinstance(own, dict) else None]
    names += [metadata.get(key) for key in ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name")]
    return next((str(name) for name in names if name), None)
