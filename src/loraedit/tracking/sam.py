"""SAM 2.1, EdgeTAM and SAM 3 as trackers, by the video models of transformers, one frame at a time.

Frames are resized and normalised here in the same way as by the processors of transformers, because those need
torchvision. The sessions are those of transformers, and hints enter them as in its ``Sam2VideoProcessor``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional as nnf

from loraedit.errors import InputError, ModelError
from loraedit.runtime.devices import find_device
from loraedit.storage.files import read_json
from loraedit.tracking.base import Hints, Planes, Point
from loraedit.tracking.view import View
from loraedit.types import Image, OnStep, Plane, Size, no_step

__all__ = ["SamTracker"]

MODELS = {"sam2": "Sam2VideoModel", "edgetam": "EdgeTamVideoModel", "sam3": "Sam3TrackerVideoModel"}
SESSIONS = {
    "Sam2VideoModel": "Sam2VideoInferenceSession",
    "EdgeTamVideoModel": "EdgeTamVideoInferenceSession",
    "Sam3TrackerVideoModel": "Sam3TrackerVideoInferenceSession",
    "Sam3VideoModel": "Sam3VideoInferenceSession",
}
"""The session class of each model; a session holds what the model keeps of a clip while it tracks."""
NORMALISATIONS = {
    "sam2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "edgetam": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "sam3": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
}
"""Mean and standard deviation that normalise the frames, unless the checkpoint has its own."""
STROKE_POINTS = 5
"""Number of points along a brush stroke that are given to a model."""
OBJECT_ID = 1


class SamTracker:
    """See :class:`~loraedit.tracking.base.Tracker`; the weights load when it tracks for the first time.

    Args:
        name: ``sam2``, ``edgetam`` or ``sam3``.
        folder: the checkpoint.
        text: a description of the object, for ``sam3``; hints correct what it finds.
        device: where to run; None chooses the best device.
    """

    def __init__(self, name: str, folder: Path, text: str | None = None, device: str | None = None) -> None:
        self._name, self._folder, self._text, self._device = name, folder, text, find_device(device)
        self._model: Any = None

    def track(self, view: View, shown: Mapping[int, Hints], on_step: OnStep = no_step) -> Planes:
        """Finds the object in every frame; see :meth:`loraedit.tracking.base.Tracker.track`.

        Raises:
            InputError: no hint lies on the object, a frame has both a mask and other hints, or the text finds nothing.
            ModelError: the checkpoint cannot be loaded.
        """
        for index, hints in shown.items():
            if hints.mask is not None and (hints.boxes or _points(hints)[0]):
                raise InputError(
                    f"Frame {index} has a mask of the object and further hints; the tracker {self._name} takes one or "
                    "the other. Remove one of them."
                )
            if len(hints.boxes) > 1:
                raise InputError(
                    f"Frame {index} has {len(hints.boxes)} boxes, but the tracker takes one box per frame."
                )
        if self._text is not None:
            found = self._track_text(view, on_step)
            if not shown:
                return found
            first = next(index for index, plane in enumerate(found) if plane.any())
            shown = {first: Hints(mask=found[first]), **shown}
        logits = self._track_hints(view, dict(sorted(shown.items())), on_step)
        size = view.source.size

        def plane(index: int) -> Plane:
            mask = shown[index].mask if index in shown else None
            return _binary(logits[index], size) if mask is None else mask

        return Planes(len(view), plane)

    # ---- points, boxes, masks ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _track_hints(self, view: View, shown: Mapping[int, Hints], on_step: OnStep) -> list[Tensor]:
        """Returns the model's logits of every frame, float16 ``[1, 1, h, w]``."""
        first = next((index for index, hints in shown.items() if hints.shows), None)
        if first is None:
            raise InputError("All hints are off the object. Add a --point on it, or a --box.")
        model = self._load(MODELS[self._name])
        session = self._session(model, view)
        logits: list[Tensor | None] = [None] * len(view)
        for index, hints in shown.items():  # the model remembers the frames that delimit the whole object
            if hints.whole or index == first:
                logits[index] = self._apply_hints(model, session, index, hints)
        onwards = [(index, False) for index in range(first, len(view))]
        backwards = [(index, True) for index in range(first, -1, -1)] if first else []
        for done, (index, reverse) in enumerate([*onwards, *backwards]):
            output = model(session, frame_idx=index, reverse=reverse)
            logits[index] = output.pred_masks.half().cpu()
            if index in shown and not (shown[index].whole or index == first):
                logits[index] = self._apply_hints(model, session, index, shown[index], reverse)
            _release(session, index, first, model.config)
            on_step(done + 1, len(onwards) + len(backwards))
        return [each for each in logits if each is not None]

    def _apply_hints(self, model: Any, session: Any, index: int, hints: Hints, reverse: bool = False) -> Tensor:
        """Gives the model the hints of a frame, and returns its logits there, float16 ``[1, 1, h, w]``."""
        place, side = session.obj_id_to_idx(OBJECT_ID), model.image_size
        if hints.mask is not None:
            mask = torch.from_numpy(hints.mask)[None, None].float()
            mask = nnf.interpolate(mask, (side, side), mode="bilinear", align_corners=False, antialias=True)
            session.add_mask_inputs(place, index, (mask >= 0.5).float())
        else:
            points, labels = _points(hints)
            scale = torch.tensor([side / session.video_width, side / session.video_height])
            inputs = {
                "point_coords": torch.tensor(points, dtype=torch.float32)[None, None] * scale,
                "point_labels": torch.tensor(labels, dtype=torch.int32)[None, None],
            }
            session.add_point_inputs(place, index, inputs)
        session.obj_with_new_inputs = [OBJECT_ID]
        masks: Tensor = model(session, frame_idx=index, reverse=reverse).pred_masks
        return masks.half().cpu()

    # ---- words ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _track_text(self, view: View, on_step: OnStep) -> Planes:
        """Finds everything that the text describes, in every frame."""
        from transformers.models.sam3_video import modeling_sam3_video as sam3

        setattr(sam3, "cv_utils_kernel", False)  # noqa: B010 - else transformers tries to fetch compiled code from the Hub
        model = self._load("Sam3VideoModel")
        session = self._session(model, view)
        tokenizer = transformers.AutoTokenizer.from_pretrained(self._folder)
        words = tokenizer(self._text, return_tensors="pt", padding="max_length", max_length=32).to(self._device)
        prompt = session.add_prompt(self._text)
        session.prompt_input_ids[prompt] = words.input_ids
        session.prompt_attention_masks[prompt] = words.attention_mask
        found: list[list[Tensor]] = [[] for _ in range(len(view))]
        for done, output in enumerate(model.propagate_in_video_iterator(session)):
            hidden = {*(output.suppressed_obj_ids or ()), *session.hotstart_removed_obj_ids}
            found[output.frame_idx] = [
                mask.half().cpu()[None] for name, mask in output.obj_id_to_mask.items() if name not in hidden
            ]
            on_step(done + 1, len(view))
        size = view.source.size
        empty = np.zeros((size.height, size.width), np.bool_)

        def plane(index: int) -> Plane:
            return np.asarray(np.any([empty, *(_binary(mask, size) for mask in found[index])], axis=0))

        planes = Planes(len(view), plane)
        if not any(each.any() for each in planes):
            raise InputError(f"The tracker finds no '{self._text}'. Use other words, or give a --box.")
        return planes

    # ---- loading -------------------------------------------------------------------------------------------------

    def _load(self, kind: str) -> Any:
        """Loads the model of a class, once."""
        if type(self._model).__name__ != kind:
            self._model = None
            try:
                model = getattr(transformers, kind).from_pretrained(
                    self._folder, use_safetensors=True, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ModelError(f"The tracker in '{self._folder}' cannot be loaded: {reason}") from error
            self._model = model.to(self._device).eval()
        return self._model

    def _session(self, model: Any, view: View) -> Any:
        """Opens a session; it reads the frames of the clip on demand."""
        size = view.source.size
        session = getattr(transformers, SESSIONS[type(model).__name__])(
            video_height=size.height,
            video_width=size.width,
            inference_device=self._device,
            inference_state_device=self._device,
            dtype=torch.float32,
        )
        mean, deviation = _normalisation(self._folder, NORMALISATIONS[self._name])
        side = model.image_size if hasattr(model, "image_size") else model.config.image_size
        session.processed_frames = _PreparedFrames(view, side, mean, deviation)
        return session


class _PreparedFrames(Mapping[int, Tensor]):
    """The frames of a clip as a model takes them, float32 ``[3, side, side]``, prepared on access."""

    def __init__(self, view: View, side: int, mean: Tensor, deviation: Tensor) -> None:
        self._view, self._side, self._mean, self._deviation = view, side, mean, deviation

    def __getitem__(self, index: int) -> Tensor:
        return prepared(self._view.frame(index), self._side, self._mean, self._deviation)

    def __len__(self) -> int:
        return len(self._view)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._view)))


def prepared(image: Image, side: int, mean: Tensor, deviation: Tensor) -> Tensor:
    """Resizes a frame to a square and normalises it, float32 ``[3, side, side]``.

    Args:
        image: uint8 ``[H, W, 3]``.
        side: of the square, in pixels.
        mean: ``[3]``, for colours from 0 to 1.
        deviation: ``[3]``.
    """
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float()
    square = nnf.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
    levels = square[0].round().clamp(0, 255) / 255  # torchvision rounds to whole grey levels
    return (levels - mean[:, None, None]) / deviation[:, None, None]


def _normalisation(folder: Path, default: tuple[list[float], list[float]]) -> tuple[Tensor, Tensor]:
    """Reads mean and standard deviation of the colours from the checkpoint; returns the default if it has none."""
    for name in ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            config = read_json(folder / name)
            config = config.get("video_processor", config)
            if "image_mean" in config and "image_std" in config:
                return torch.tensor(config["image_mean"]), torch.tensor(config["image_std"])
    return torch.tensor(default[0]), torch.tensor(default[1])


def _points(hints: Hints) -> tuple[list[Point], list[int]]:
    """Returns points and their labels: 2 and 3 for the corners of a box, 1 on the object, 0 off it."""
    boxes = [corner for x0, y0, x1, y1 in hints.boxes for corner in ((x0, y0), (x1, y1))]
    on = [*hints.points, *(point for stroke in hints.strokes for point in _points_along(stroke))]
    off = [*hints.points_out, *(point for stroke in hints.strokes_out for point in _points_along(stroke))]
    return [*boxes, *on, *off], [2, 3] * len(hints.boxes) + [1] * len(on) + [0] * len(off)


def _points_along(stroke: tuple[Point, ...]) -> list[Point]:
    """Returns points at equal distances along a stroke."""
    line = np.array(stroke, np.float64)
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    places = np.linspace(0, lengths[-1], STROKE_POINTS if lengths[-1] > 0 else 1)
    xs, ys = (np.rint(np.interp(places, lengths, line[:, axis])).astype(int).tolist() for axis in (0, 1))
    return list(zip(xs, ys, strict=True))


def _release(session: Any, index: int, first: int, config: Any) -> None:
    """Releases what the model does not look at again, so that a long clip does not fill the memory.

    The model looks back a few frames. At ``first``, where the direction changes, those lie on the other side.
    """
    max_distance = max(config.num_maskmem, config.max_object_pointers_in_encoder) + 1
    for outputs in session.output_dict_per_obj.values():
        recent = outputs["non_cond_frame_outputs"]
        recent.get(index, {}).pop("high_res_masks", None)
        for old in [each for each in recent if abs(each - index) > max_distance and abs(each - first) > max_distance]:
            del recent[old]


def _binary(logits: Tensor, size: Size) -> Plane:
    """Thresholds logits ``[1, 1, h, w]`` at the clip's size."""
    large = nnf.interpolate(logits.float(), (size.height, size.width), mode="bilinear", align_corners=False)
    return np.asarray((large[0, 0] > 0).numpy())
