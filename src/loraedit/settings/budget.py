"""Parses limits: on a course of training, and on the memory of a GPU."""

from __future__ import annotations

import re

from loraedit.errors import InputError

__all__ = ["parse_budget", "parse_memory"]

_SECONDS = {"s": 1, "min": 60, "h": 3600}


def parse_budget(text: str | None) -> tuple[int | None, float]:
    """Parses ``200steps``, ``90s``, ``10min`` or ``2h``.

    Returns:
        The number of steps, or None if there is no limit; and the seconds, or 0 if there is no limit.

    Raises:
        InputError: the text is neither steps nor time.
    """
    if text is None:
        return None, 0.0
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?) ?(steps|s|min|h)", text)
    if match is None or float(match[1]) <= 0 or (match[2] == "steps" and "." in match[1]):
        raise InputError(f"The budget '{text}' is not understood. Give steps or time, such as 200steps, 90s or 10min.")
    if match[2] == "steps":
        return int(match[1]), 0.0
    return None, float(match[1]) * _SECONDS[match[2]]


def parse_memory(text: str) -> int | None:
    """Parses ``24GB`` or ``24``, in 10^9 bytes; ``auto`` is None.

    Raises:
        InputError: the text has another form.
    """
    if text == "auto":
        return None
    match = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)\s*(?:GB|G)?", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise InputError(f"Video memory '{text}' is not a size. Give gigabytes, such as 24GB, or auto.")
    return int(float(match[1]) * 10**9)
