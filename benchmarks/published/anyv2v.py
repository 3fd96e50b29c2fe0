"""The demo folder of AnyV2V: ``NAME.mp4`` beside ``NAME/edited_first_frame/EDIT.png``.

Read from github.com/TIGER-AI-Lab/AnyV2V at bc540bef (2024-10-29). FOLDER is the repository or its ``demo``. The prompts
are those of ``i2vgen-xl/configs/group_pnp_edit/group_config.json``, whether an entry is active or not; an edit without
an entry takes its file's name, which is the instruction that made it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.published.cases import Found, PublishedCase, case_name, images_in, need_file, need_folder, unique
from loraedit.errors import InputError
from loraedit.storage.files import read_json

__all__ = ["read_anyv2v"]

CONFIG = Path("i2vgen-xl/configs/group_pnp_edit/group_config.json")


def read_anyv2v(folder: Path) -> Found:
    """A :class:`benchmarks.published.cases.Reader`."""
    need_folder(folder)
    demo = folder / "demo" if (folder / "demo").is_dir() else folder
    prompts = _prompts(demo.resolve().parent / CONFIG)
    cases, without = [], []
    for place in sorted(path for path in demo.iterdir() if path.is_dir()):
        edits = images_in(place / "edited_first_frame")
        if not edits:
            without.append(place.name)
            continue
        clip = need_file(demo / f"{place.name}.mp4", f"the clip of the edits in '{place / 'edited_first_frame'}'.")
        for edit in edits:
            prompt = prompts.get((place.name, edit.name), edit.stem)
            cases.append(PublishedCase(case_name(place.name, edit.stem), clip, edit, prompt))
    left = tuple(f"'{name}' has no image in edited_first_frame and is left out." for name in without)
    return Found(unique(cases, folder), left)


def _prompts(config: Path) -> dict[tuple[str, str], str]:
    """Returns the editing prompts by clip and edited frame; none without a configuration."""
    if not config.is_file():
        return {}
    try:
        entries: Any = read_json(config)
        pairs = [(Path(each["edited_first_frame_path"]), str(each["editing_prompt"])) for each in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"'{config}' is not a list of edits as AnyV2V has it ({error!r}).") from error
    return {(path.parent.parent.name, path.name): prompt for path, prompt in pairs}
