"""Command-line options made of the settings, so that each is described once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from loraedit.settings import EditSettings, from_recipe

__all__ = ["with_settings"]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes ``**settings`` one option for each field of :class:`EditSettings`."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    made = [_option(name, field) for name, field in EditSettings.model_fields.items()]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *made)]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    help_text = field.description or ""
    if from_recipe(name):
        help_text += "  [default: the model's]"
    annotation: Any = Annotated[_plain(field.annotation), typer.Option(help=help_text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _plain(annotation: Any) -> Any:
    """``int``, ``float``, ``bool`` or ``str``, or None or a list; the settings check ranges and choices themselves."""
    if get_origin(annotation) is Literal:
        return str
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return list[_plain(get_args(annotation)[0])]  # type: ignore[misc]
    options = [each for each in get_args(annotation) if each is not NoneType]
    if not options:
        return annotation
    return _plain(options[0]) | None
