"""Turns the settings into command-line options, so that each is described once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from loraedit.settings.edit import EditSettings, Recipe

__all__ = ["with_plan_settings", "with_settings"]

Command = Callable[..., None]


def with_settings(command: Command) -> Command:
    """Gives a command that takes ``**settings`` an option for each field of :class:`EditSettings`."""
    return _with_options(command, list(EditSettings.model_fields))


def with_plan_settings(command: Command) -> Command:
    """Gives a command that takes ``**settings`` an option for each setting that changes a plan."""
    return _with_options(command, list(EditSettings.model_fields))


def _with_options(command: Command, names: list[str]) -> Command:
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [_option(name, EditSettings.model_fields[name]) for name in names]
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *options)]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    help_text = field.description or ""
    if name in Recipe.model_fields and Recipe.model_fields[name].default is not None:
        help_text += "  [default: the model's]"
    annotation: Any = Annotated[_plain(field.annotation), typer.Option(help=help_text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _plain(annotation: Any) -> Any:
    """Returns ``int``, ``float``, ``bool`` or ``str``, optional or as a list; the settings check ranges and choices."""
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
