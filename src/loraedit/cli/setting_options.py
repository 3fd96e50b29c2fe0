"""Turns the settings into command-line options, so that each is described once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from loraedit.cli.help_panels import MOST_USED, MOST_USED_OPTIONS
from loraedit.settings import EditSettings, about, affects_plan, from_recipe

__all__ = ["with_plan_settings", "with_settings"]

Command = Callable[..., None]


def with_settings(command: Command) -> Command:
    """Gives a command that takes ``**settings`` an option for each field of :class:`EditSettings`."""
    return _with_options(command, list(EditSettings.model_fields))


def with_plan_settings(command: Command) -> Command:
    """Gives a command that takes ``**settings`` an option for each setting that can change a plan."""
    return _with_options(command, [name for name in EditSettings.model_fields if affects_plan(name)])


def _with_options(command: Command, names: list[str]) -> Command:
    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [_option(name, EditSettings.model_fields[name]) for name in names]
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *options)]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    help_text = field.description or ""
    if from_recipe(name):
        help_text += "  [default: the model's]"
    panel = MOST_USED if name in MOST_USED_OPTIONS else about(name).panel
    kind = _plain(field.annotation)
    metavar = "<str>" if get_origin(kind) is list else None  # typer's own is <list[str]>
    annotation: Any = Annotated[kind, typer.Option(help=help_text, metavar=metavar, rich_help_panel=panel)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _plain(annotation: Any) -> Any:
    """Returns ``int``, ``float``, ``bool`` or ``str``, optional or as a list; the settings check ranges and choices."""
    if get_origin(annotation) is Literal:
        return str
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) is tuple:
        return list[_plain(get_args(annotation)[0])]  # type: ignore[misc]
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return _plain(kinds[0]) | None if kinds else annotation
