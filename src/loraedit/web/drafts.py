"""Drafts: the clip, the edited frames, the hints of the mask and the settings of an edit that is being prepared."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraedit.errors import InputError
from loraedit.job.captioner import CAPTIONERS
from loraedit.settings import PANELS, EditSettings, about, from_recipe, make_settings
from loraedit.storage.files import read_json, write_json
from loraedit.web.user_files import CLIP_ID, IMAGE_ID, UserFiles

__all__ = ["MASK_KEY", "Draft", "load_draft", "offered_settings", "parse_draft", "save_draft"]

MASK_KEY = r"[0-9a-f]{12}"
MAX_HINTS = 1000
MAX_TEXT = 2000
OPTIONAL_TEXTS = frozenset({"negative_prompt", "trigger"})
"""Texts with a default of the model's, for which the user can also choose to have none."""
TEXTS = frozenset({"prompt", "source_prompt", "model", "device", "captioner"}) | OPTIONAL_TEXTS
"""The text settings that the page offers. They name no file: models and captioners come from lists."""
UNUSED = frozenset({"margin"})
"""Settings of automatic masks; the page makes the mask with a command of its own."""
SIMPLE = frozenset({"integer", "number", "boolean", "null"})

Frame = Annotated[int, Field(ge=0, lt=1_000_000)]
Pixel = Annotated[int, Field(ge=0, lt=100_000)]
ClipName = Annotated[str, Field(pattern=f"^{CLIP_ID}$")]
ImageName = Annotated[str, Field(pattern=f"^{IMAGE_ID}$")]


class Draft(BaseModel):
    """An edit that is being prepared.

    Attributes:
        clip: the clip to edit.
        whole: the uploaded clip; ``clip`` is this clip or a part of it.
        name: the file name of the upload. It is shown, but never opened.
        edited: the edited first frame.
        references: further edited frames, by frame of ``clip``.
        points: (frame, x, y, whether it is on the object).
        boxes: (frame, x0, y0, x1, y1).
        seeds: the object painted in white, by frame.
        margin: room around the mask, as a share of its size; None takes the default.
        kept_mask: the mask of an earlier run, used as it is.
        settings: fields of :class:`EditSettings` that differ from their defaults.
    """

    model_config = ConfigDict(extra="forbid", strict=False, frozen=True)

    clip: ClipName | None = None
    whole: ClipName | None = None
    name: Annotated[str, Field(max_length=200)] = ""
    edited: ImageName | None = None
    references: Annotated[dict[Frame, ImageName], Field(max_length=MAX_HINTS)] = {}
    points: Annotated[list[tuple[Frame, Pixel, Pixel, bool]], Field(max_length=MAX_HINTS)] = []
    boxes: Annotated[list[tuple[Frame, Pixel, Pixel, Pixel, Pixel]], Field(max_length=MAX_HINTS)] = []
    seeds: Annotated[dict[Frame, ImageName], Field(max_length=MAX_HINTS)] = {}
    margin: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    kept_mask: Annotated[str, Field(pattern=f"^{MASK_KEY}$")] | None = None
    settings: dict[str, Any] = {}


def parse_draft(value: Any, files: UserFiles, models: list[str]) -> Draft:
    """Checks a draft that the browser sent.

    Raises:
        InputError: it is malformed, it names a file that the user does not have, or a setting is out of range.
    """
    try:
        draft = Draft.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"The page sent a '{place}' that is not valid: {first['msg']}. Reload the page.") from error
    for clip in (draft.clip, draft.whole):
        if clip is not None:
            files.clip(clip)
    for image in (draft.edited, *draft.references.values(), *draft.seeds.values()):
        if image is not None:
            files.image(image)
    if draft.kept_mask is not None and not (files.folder / "masks" / draft.kept_mask / "mask").is_dir():
        raise InputError("This mask no longer exists. Make a new one.")
    _check_settings(draft.settings, models)
    return draft


def offered_settings() -> dict[str, Any]:
    """Returns the JSON schema of each setting that the page offers; no setting is a path.

    Beside the schema it has the panel, whether the default is the model's, and whether the user can choose no text.
    """
    fields: dict[str, Any] = EditSettings.model_json_schema()["properties"]
    offered = [name for name, field in fields.items() if name in TEXTS or (name not in UNUSED and _is_simple(field))]
    offered.sort(key=lambda name: PANELS.index(about(name).panel))
    captioner = {"enum": [each.name for each in CAPTIONERS], "description": fields["captioner"]["description"]}
    return {
        name: {
            **(captioner if name == "captioner" else fields[name]),
            "panel": about(name).panel,
            "of_model": from_recipe(name),
            "may_be_none": name in OPTIONAL_TEXTS,
        }
        for name in offered
    }


def _is_simple(field: dict[str, Any]) -> bool:
    return all("enum" in kind or kind.get("type") in SIMPLE for kind in field.get("anyOf", [field]))


def _check_settings(settings: dict[str, Any], models: list[str]) -> None:
    """Checks the ranges, and that the server offers the model and the captioner: both could name a folder.

    Raises:
        InputError: a setting is not offered or out of range.
    """
    unknown = sorted(set(settings) - set(offered_settings()))
    if unknown:
        raise InputError(f"The page has no setting '{unknown[0]}'. Use the command line for it.")
    checked: EditSettings = make_settings(settings)
    if checked.model not in models:
        raise InputError(f"The page offers {' and '.join(models)}. Start the server with --model to offer more.")
    names = [each.name for each in CAPTIONERS]
    if checked.captioner not in (None, *names):
        raise InputError(f"The page offers the captioners {', '.join(names)}. Use the command line for another one.")
    for text in (value for value in settings.values() if isinstance(value, str)):
        if len(text) > MAX_TEXT or any(ord(character) < 32 or ord(character) == 127 for character in text):
            raise InputError(f"A text is one line of at most {MAX_TEXT} characters. Shorten it.")


def load_draft(files: UserFiles, models: list[str]) -> Draft:
    """Returns the saved draft; an empty one if there is none or its files are missing."""
    try:
        return parse_draft(read_json(files.folder / "draft.json"), files, models)
    except (OSError, ValueError, InputError):
        return Draft()


def save_draft(files: UserFiles, draft: Draft) -> None:
    """Saves a draft for the next visit."""
    write_json(files.folder / "draft.json", draft.model_dump(mode="json"))
