"""A flow estimator from outside of the package: one shift for the whole frame, by phase correlation."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np

from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.fields import Field
from loraedit.types import Image, Size

__all__ = ["ShiftEstimator"]


class ShiftEstimator:
    """Measures one shift for all pixels, on frames of half the size.

    Attributes:
        flows: number of flows that all estimators of this class measured.
        devices: the devices that they were opened for.
    """

    flows = 0
    devices: ClassVar[set[str | None]] = set()

    def __init__(self, size: Size, options: FlowOptions) -> None:
        ShiftEstimator.devices.add(options.device)
        self.measured_size = Size(max(size.height // 2, 1), max(size.width // 2, 1))

    def prepare(self, rgb: Image) -> Field:
        """Converts a frame to half-size grey levels."""
        size = self.measured_size.width, self.measured_size.height
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).mean(-1), np.float32)

    def flow(self, a: Field, b: Field, initial: Field | None = None) -> Field:
        """Measures the shift from ``a`` to ``b``; a first guess is of no use."""
        del initial
        ShiftEstimator.flows += 1
        window = cv2.createHanningWindow(a.shape[::-1], cv2.CV_32F)
        (x, y), _ = cv2.phaseCorrelate(a, b, window)
        return np.full((*a.shape, 2), (x, y), np.float32)
