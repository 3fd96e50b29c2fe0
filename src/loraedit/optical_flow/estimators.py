"""The optical flow estimators by name, and the factory that opens one.

To add one, write a file with a class that answers :class:`~loraedit.optical_flow.base.FlowEstimator`, and a line in
``ESTIMATORS``; code outside of the package calls :func:`register_estimator`. An estimator that needs torch or weights
imports and loads them when it is opened, not when its module is imported.
"""

from __future__ import annotations

from collections.abc import Callable

from loraedit.errors import InputError
from loraedit.optical_flow.base import FlowEstimator, FlowOptions
from loraedit.optical_flow.dis import DisEstimator
from loraedit.optical_flow.fields import Field, resize_flow
from loraedit.types import Image, Size

__all__ = [
    "ESTIMATORS",
    "OpenEstimator",
    "check_estimator",
    "flow_between",
    "open_estimator",
    "register_estimator",
    "stays_on_cpu",
]

OpenEstimator = Callable[[Size, FlowOptions], FlowEstimator]
"""Opens an estimator for frames of a size."""

ESTIMATORS: dict[str, OpenEstimator] = {
    "dis": DisEstimator,
}


_ON_CPU = {"dis"}


def register_estimator(name: str, opener: OpenEstimator, *, on_cpu: bool = False) -> None:
    """Adds an estimator under a name; a name that is taken gets the new one.

    Args:
        name: for ``--flow-estimator``.
        opener: opens it; ``FlowOptions.device`` is the device of the run.
        on_cpu: whether it always computes on the CPU, so that it may work while the device trains.
    """
    ESTIMATORS[name] = opener
    (_ON_CPU.add if on_cpu else _ON_CPU.discard)(name)


def stays_on_cpu(name: str) -> bool:
    """Returns True if an estimator always computes on the CPU."""
    return name in _ON_CPU


def check_estimator(name: str) -> None:
    """Checks that there is an estimator of this name.

    Raises:
        InputError: there is none.
    """
    if name not in ESTIMATORS:
        raise InputError(f"Unknown flow estimator '{name}'. Use one of: {', '.join(ESTIMATORS)}.")


def open_estimator(size: Size, options: FlowOptions | None = None) -> FlowEstimator:
    """Opens an estimator for frames of one size.

    Args:
        size: height and width of the frames, in pixels.
        options: None means ``FlowOptions()``.

    Raises:
        InputError: there is no estimator of the name in ``options``.
    """
    options = options or FlowOptions()
    check_estimator(options.estimator)
    return ESTIMATORS[options.estimator](size, options)


def flow_between(estimator: FlowEstimator, a: Image, b: Image, initial: Field | None = None) -> Field:
    """Measures the flow between two frames at the frames' own size.

    Args:
        estimator: opened for frames of this size.
        a: uint8 ``[H, W, 3]``.
        b: uint8 ``[H, W, 3]``.
        initial: a first guess of the result, ``[H, W, 2]``.

    Returns:
        ``[H, W, 2]``: from each pixel of ``a`` to where it lies in ``b``, in pixels.
    """
    start = None if initial is None else resize_flow(initial, estimator.measured_size)
    flow = estimator.flow(estimator.prepare(a), estimator.prepare(b), start)
    return resize_flow(flow, Size(*a.shape[:2]))
