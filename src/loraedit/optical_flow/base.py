"""The protocol of optical flow estimators, and the options that they are opened with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from loraedit.optical_flow.fields import Field
from loraedit.types import Image, Size

__all__ = ["FlowEstimator", "FlowOptions"]


@dataclass(frozen=True)
class FlowOptions:
    """Which estimator to use, and how it is configured. An estimator ignores the options that it has no use for.

    Attributes:
        estimator: a name in :data:`loraedit.optical_flow.estimators.ESTIMATORS`.
        min_side_px: frames with a shorter side than this are enlarged to it before the flow is measured.
        smoothness: weight of a smooth flow against one that matches colours and gradients; 20 is OpenCV's default.
        device: device of the run, such as ``cuda:0``, for an estimator that runs a network; None is the CPU. The
            embedded estimator always runs on the CPU.
    """

    estimator: str = "dis"
    min_side_px: int = 0
    smoothness: float = 20.0
    device: str | None = None


class FlowEstimator(Protocol):
    """Measures dense optical flow between frames of one size.

    Frames come in and flow goes out as numpy arrays in host memory. What :meth:`prepare` returns is opaque to callers
    and may live on any device, so that features of a frame are computed once for all flows from and to it.
    """

    @property
    def measured_size(self) -> Size:
        """Height and width of the flow fields; it may differ from that of the frames."""
        ...

    def prepare(self, rgb: Image) -> Any:
        """Prepares a frame for :meth:`flow`.

        Args:
            rgb: uint8 ``[H, W, 3]``, of the size that the estimator was opened for.
        """
        ...

    def flow(self, a: Any, b: Any, initial: Field | None = None) -> Field:
        """Measures where each pixel of frame ``a`` lies in frame ``b``.

        Args:
            a: a prepared frame.
            b: another one.
            initial: a first guess of the result in the same form. It is never written to, and an estimator that cannot
                use it ignores it.

        Returns:
            A new float32 array ``[*measured_size, 2]``: x and y offsets in pixels of ``measured_size``.
            :func:`loraedit.optical_flow.fields.resize_flow` brings it to the frames' own size.
        """
        ...
