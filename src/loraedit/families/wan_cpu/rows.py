"""Some tokens of a clip at a time, where no gradient is asked for: what is wide or exact on the way stays small."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["by_rows"]

ROWS = 1024
"""So many tokens at a time; more are hardly faster."""


def by_rows(make: Callable[[slice], Tensor], length: int) -> Tensor:
    """All that ``make`` gives, ``[N, L, D]``, of so many tokens.

    Args:
        make: of the tokens of a slice, ``[N, l, D]``.
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
