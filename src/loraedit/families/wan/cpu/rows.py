"""Computes a result token by token group, where no gradient is needed: large intermediates stay small."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["by_rows"]

ROWS = 1024
"""Tokens at a time; more are hardly faster."""


def by_rows(make: Callable[[slice], Tensor], length: int) -> Tensor:
    """Returns the results of ``make`` for all tokens, ``[N, L, D]``.

    Args:
        make: computes the result for the tokens of a slice, ``[N, l, D]``.
        length: the number of tokens L.
    """
    if length <= ROWS:
        return make(slice(0, length))
    first = make(slice(0, ROWS))
    whole = first.new_empty(first.shape[0], length, first.shape[2])
    whole[:, :ROWS] = first
    for start in range(ROWS, length, ROWS):
        rows = slice(start, min(start + ROWS, length))
        whole[:, rows] = make(rows)
    return whole
