"""Checks and sets attention backends, which diffusers knows by name."""

from __future__ import annotations

from typing import Any

from loraedit.errors import InputError

__all__ = ["check_attention", "set_attention"]


def check_attention(backend: str) -> None:
    """Checks that a backend exists and that its library is installed here.

    Raises:
        InputError: there is none of that name, it would download code, or its library is missing or too old.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName, _check_attention_backend_requirements

    if backend.endswith("_hub"):
        raise InputError(f"The attention backend '{backend}' would download and run code. Choose an installed one.")
    names = [each.value for each in AttentionBackendName if not each.value.endswith("_hub")]
    if backend not in names:
        raise InputError(f"There is no attention backend '{backend}'. diffusers has {', '.join(names)}.")
    try:
        _check_attention_backend_requirements(AttentionBackendName(backend))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"The attention backend '{backend}' cannot be used: {reason}. Choose another.") from error


def set_attention(transformer: Any, backend: str) -> None:
    """Sets the attention backend of this model alone; diffusers' method also changes the default of the process.

    Raises:
        InputError: see :func:`check_attention`.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    check_attention(backend)
    default, _ = _AttentionBackendRegistry.get_active_backend()
    try:
        transformer.set_attention_backend(backend)
    finally:
        _AttentionBackendRegistry.set_active_backend(default)
