"""DIS, the optical flow of OpenCV, on the CPU.

Source: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", 2016.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from loraedit.optical_flow.base import FlowOptions
from loraedit.optical_flow.fields import Field, enlargement_factor
from loraedit.types import Image, Size

__all__ = ["DisEstimator", "Grey"]

Grey = NDArray[np.uint8]  # [H, W]

MIN_SIDE_PX = 16
"""Both sides are enlarged to at least this; DIS refuses frames smaller than its patches of 8 pixels."""


class DisEstimator:
    """Measures flow on grey frames; small frames are enlarged first, because DIS matches patches of 8 pixels.

    See :class:`~loraedit.optical_flow.base.FlowEstimator`. A prepared frame is uint8 ``[H', W']``.

    Args:
        size: height and width of the frames.
        options: uses ``min_side_px`` and ``smoothness``.
    """

    def __init__(self, size: Size, options: FlowOptions) -> None:
        factor = enlargement_factor(size, options.min_side_px)
        height, width = (max(round(side * factor), MIN_SIDE_PX) for side in (size.height, size.width))
        self._measured_size = Size(height, width)
        self._enlarged = self._measured_size != size
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._dis.setFinestScale(0 if self._enlarged else 1)
        self._dis.setVariationalRefinementAlpha(options.smoothness)

    @property
    def measured_size(self) -> Size:
        """Height and width of the flow fields: those of the enlarged frames."""
        return self._measured_size

    def prepare(self, rgb: Image) -> Grey:
        """Converts a frame ``[H, W, 3]`` to grey and enlarges it, ``[H', W']``."""
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        if self._enlarged:
            size = self._measured_size.width, self._measured_size.height
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC)
        return np.asarray(grey, np.uint8)

    def flow(self, a: Grey, b: Grey, initial: Field | None = None) -> Field:
        """Measures where each pixel of ``a`` lies in ``b``, ``[H', W', 2]``."""
        start = np.zeros((*a.shape, 2), np.float32) if initial is None else initial.copy()
        return np.asarray(self._dis.calc(a, b, start), np.float32)
