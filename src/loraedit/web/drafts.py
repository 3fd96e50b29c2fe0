"""What is on a person's page: the clip, the edits, the hints of the mask and the settings; checked as it comes in."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraedit.errors import InputError
from loraedit.settings import EditSettings, make_settings
from loraedit.storage.files import read_json, write_json
from loraedit.web.store import CLIP_ID, IMAGE_ID, Store

__all__ = ["MASK_KEY", "Draft", "load_draft", "offered_settings", "parse_draft", "save_draft"]

MASK_KEY = r"[0-9a-f]{12}"
MAX_HINTS = 1000
MAX_TEXT = 2000
TEXTS = frozenset({"prompt", "source_prompt", "model", "device"})
"""Settings that are texts and name no file that a browser could choose; the model is one of those offered."""
SIMPLE = frozenset({"integer", "number", "boolean", "null"})

Frame = Annotated[int, Field(ge=0, lt=1_000_000)]
Pixel = Annotated[int, Field(ge=0, lt=100_000)]
ClipName = Annotated[str, Field(pattern=f"^{CLIP_ID}$")]
ImageName = Annotated[str, Field(pattern=f"^{IMAGE_ID}$")]


class Draft(BaseModel):
    """An edit in the making.

    Attributes:
        clip: the clip that is edited.
        whole: the clip as uploaded, which ``clip`` may be a part of.
        name: what the person calls it; shown, never opened.
        edited: the edited first frame.
        references: further edited frames, by frame of ``clip``.
        points: (frame, x, y, on the object or not).
        boxes: (frame, x0, y0, x1, y1).
        seeds: the object painted in single frames, white, by frame.
        kept_mask: a mask made before, which is used as it is.
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


def parse_draft(value: Any, store: Store, models: list[str]) -> Draft:
    """A draft as the browser sent it.

    Raises:
        InputError: it is malformed, names what this person has not, or a setting is out of its range.
    """
    try:
        draft = Draft.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"The page sent a '{place}' that cannot be used: {first['msg']}. Reload the page.") from error
    for clip in (draft.clip, draft.whole):
        if clip is not None:
            store.clip(clip)
    for image in (draft.edited, *draft.references.values(), *draft.seeds.values()):
        if image is not None:
            store.image(image)
    if draft.kept_mask is not None and not (store.folder / "masks" / draft.kept_mask / "mask").is_dir():
        raise InputError("There is no such mask. Make it anew.")
    _check_settings(draft.settings, models)
    return draft


def offered_settings() -> dict[str, Any]:
    """The JSON schema of each setting that the page offers: numbers, choices, and texts that are no paths."""
    fields: dict[str, Any] = EditSettings.model_json_schema()["properties"]
    return {name: field for name, field in fields.items() if name in TEXTS or _is_simple(field)}


def _is_simple(field: dict[str, Any]) -> bool:
    return all("enum" in kind or kind.get("type") in SIMPLE for kind in field.get("anyOf", [field]))


def _check_settings(settings: dict[str, Any], models: list[str]) -> None:
    """Every one is in its range; the model is one that the server was told to offer, for it names a folder."""
    unknown = sorted(set(settings) - set(offered_settings()))
    if unknown:
        raise InputError(f"The page has no setting '{unknown[0]}'. Use the command line for it.")
    made: EditSettings = make_settings(settings)
    if made.model not in models:
        raise InputError(f"The page offers {' and '.join(models)}. Start the server with another --model for more.")
    for text in (value for value in settings.values() if isinstance(value, str)):
        if len(text) > MAX_TEXT or any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
            raise InputError(f"Texts are one line of at most {MAX_TEXT} letters. Shorten it.")


def load_draft(store: Store, models: list[str]) -> Draft:
    """The draft that this person left; an empty one if there is none, or files of it are gone."""
    try:
        return parse_draft(read_json(store.folder / "draft.json"), store, models)
    except (OSError, ValueError, InputError):
        return Draft()


def save_draft(store: Store, draft: Draft) -> None:
    """Keep it for the next visit."""
    write_json(store.folder / "draft.json", draft.model_dump(mode="json"))
