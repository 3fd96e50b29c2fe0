"""SAM 2.1, EdgeTAM and SAM 3 as trackers: transformers' own video models, fed a frame at a time.

The frames are resized and normalised here, as the processors of transformers do it, because those need torchvision;
the sessions are transformers' own. A point, box or mask goes where its ``Sam2VideoProcessor`` puts it.
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
"""What each model keeps of a clip while it tracks."""
LOOKS = {
    "sam2": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "edgetam": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "sam3": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
}
"""Mean and deviation that each model's frames are normalised by, unless its folder says otherwise."""
STROKE_POINTS = 5
"""A brush stroke is shown to a model as so many points along it."""
OBJECT = 1


class SamTracker:
    """See :class:`~loraedit.tracking.base.Tracker`; the weights load when it tracks for the first time.

    Args:
        name: ``sam2``, ``edgetam`` or ``sam3``.
        folder: the checkpoint.
        text: what to look for, with ``sam3``; what is shown besides corrects what it finds.
        device: where to run; None takes the best one.
    """

    def __init__(self, name: str, folder: Path, text: str | None = None, device: str | None = None) -> None:
        self._name, self._folder, self._text, self._device = name, folder, text, find_device(device)
        self._model: Any = None

    def track(self, view: View, shown: Mapping[int, Hints], on_step: OnStep = no_step) -> Planes:
        """Find the object in every frame; see :meth:`loraedit.tracking.base.Tracker.track`.

        Raises:
            InputError: nothing shows the object, a frame shows both its mask and something else, or the words find
                nothing.
            ModelError: the checkpoint cannot be loaded.
        """
        for index, hints in shown.items():
            if hints.mask is not None and (hints.boxes or _points(hints)[0]):
                raise InputError(
                    f"Frame {index} shows the object by its mask and by something else; the tracker {self._name} takes "
                    "one of them for a frame. Leave one out."
                )
            if len(hints.boxes) > 1:
                raise InputError(f"Frame {index} has {len(hints.boxes)} boxes, but the tracker takes one for a frame.")
        if self._text is not None:
            found = self._named(view, on_step)
            if not shown:
                return found
            first = next(index for index, plane in enumerate(found) if plane.any())
            shown = {first: Hints(mask=found[first]), **shown}
        logits = self._follow(view, dict(sorted(shown.items())), on_step)
        size = view.source.size

        def plane(index: int) -> Plane:
            mask = shown[index].mask if index in shown else None
            return _binary(logits[index], size) if mask is None else mask

        return Planes(len(view), plane)

    # ---- points, boxes, masks ------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _follow(self, view: View, shown: Mapping[int, Hints], on_step: OnStep) -> list[Tensor]:
        """The model's logits of every frame, float16 ``[1, 1, h, w]``."""
        first = next((index for index, hints in shown.items() if hints.shows), None)
        if first is None:
            raise InputError("All points are off the object, and none on the object. Add a --point on it, or a --box.")
        model = self._loaded(MODELS[self._name])
        session = self._session(model, view)
        logits: list[Tensor | None] = [None] * len(view)
        for index, hints in shown.items():  # what shows the object as a whole is what the model remembers
            if hints.whole or index == first:
                logits[index] = self._shown(model, session, index, hints)
        onwards = [(index, False) for index in range(first, len(view))]
        backwards = [(index, True) for index in range(first, -1, -1)] if first else []
        for done, (index, reverse) in enumerate([*onwards, *backwards]):
            output = model(session, frame_idx=index, reverse=reverse)
            logits[index] = output.pred_masks.half().cpu()
            if index in shown and not (shown[index].whole or index == first):
                logits[index] = self._shown(model, session, index, shown[index], reverse)
            _forget(session, index, first, model.config)
            on_step(done + 1, len(onwards) + len(backwards))
        return [each for each in logits if each is not None]

    def _shown(self, model: Any, session: Any, index: int, hints: Hints, reverse: bool = False) -> Tensor:
        """What the model makes of hints in a frame: float16 logits ``[1, 1, h, w]``."""
        place, side = session.obj_id_to_idx(OBJECT), model.image_size
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
        session.obj_with_new_inputs = [OBJECT]
        masks: Tensor = model(session, frame_idx=index, reverse=reverse).pred_masks
        return masks.half().cpu()

    # ---- words ---------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _named(self, view: View, on_step: OnStep) -> Planes:
        """All that the words find, in every frame."""
        from transformers.models.sam3_video import modeling_sam3_video as sam3

        setattr(sam3, "cv_utils_kernel", False)  # noqa: B010 - or transformers would fetch compiled code from the Hub, if it could
        model = self._loaded("Sam3VideoModel")
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
            raise InputError(f"The tracker finds no '{self._text}'. Say it otherwise, or show it by a --box.")
        return planes

    # ---- loading -------------------------------------------------------------------------------------------------

    def _loaded(self, kind: str) -> Any:
        """The model of this class, loaded once."""
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
        """What the model keeps of a clip; it reads the frames when it comes to them."""
        size = view.source.size
        session = getattr(transformers, SESSIONS[type(model).__name__])(
            video_height=size.height,
            video_width=size.width,
            inference_device=self._device,
            inference_state_device=self._device,
            dtype=torch.float32,
        )
        mean, deviation = _normalisation(self._folder, LOOKS[self._name])
        side = model.image_size if hasattr(model, "image_size") else model.config.image_size
        session.processed_frames = _Prepared(view, side, mean, deviation)
        return session


class _Prepared(Mapping[int, Tensor]):
    """A clip's frames as a model takes them, float32 ``[3, side, side]``, made when they are asked for."""

    def __init__(self, view: View, side: int, mean: Tensor, deviation: Tensor) -> None:
        self._view, self._side, self._mean, self._deviation = view, side, mean, deviation

    def __getitem__(self, index: int) -> Tensor:
        return prepared(self._view.frame(index), self._side, self._mean, self._deviation)

    def __len__(self) -> int:
        return len(self._view)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._view)))


def prepared(image: Image, side: int, mean: Tensor, deviation: Tensor) -> Tensor:
    """A frame resized to a square and normalised, float32 ``[3, side, side]``.

    Args:
        image: uint8 ``[H, W, 3]``.
        side: of the square, in pixels.
        mean: ``[3]``, of colours from 0 to 1.
        deviation: ``[3]``.
    """
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float()
    square = nnf.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
    levels = square[0].round().clamp(0, 255) / 255  # torchvision resizes to whole grey levels
    return (levels - mean[:, None, None]) / deviation[:, None, None]


def _normalisation(folder: Path, usual: tuple[list[float], list[float]]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of colours as the checkpoint says, or the usual ones."""
    for name in ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            said = read_json(folder / name)
            said = said.get("video_processor", said)
            if "image_mean" in said and "image_std" in said:
                return torch.tensor(said["image_mean"]), torch.tensor(said["image_std"])
    return torch.tensor(usual[0]), torch.tensor(usual[1])


def _points(hints: Hints) -> tuple[list[Point], list[int]]:
    """Points and their labels: 2 and 3 for the corners of a box, 1 on the object, 0 off it."""
    boxes = [corner for x0, y0, x1, y1 in hints.boxes for corner in ((x0, y0), (x1, y1))]
    on = [*hints.points, *(point for stroke in hints.strokes for point in _along(stroke))]
    off = [*hints.points_out, *(point for stroke in hints.strokes_out for point in _along(stroke))]
    return [*boxes, *on, *off], [2, 3] * len(hints.boxes) + [1] * len(on) + [0] * len(off)


def _along(stroke: tuple[Point, ...]) -> list[Point]:
    """Points at equal distances along a stroke."""
    line = np.array(stroke, np.float64)
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    places = np.linspace(0, lengths[-1], STROKE_POINTS if lengths[-1] > 0 else 1)
    xs, ys = (np.rint(np.interp(places, lengths, line[:, axis])).astype(int).tolist() for axis in (0, 1))
    return list(zip(xs, ys, strict=True))


def _forget(session: Any, index: int, first: int, config: Any) -> None:
    """Let go of what the model never looks at again, or a long clip would fill the memory.

    It looks back a few frames; where it turns round, at ``first``, those lie on the other side.
    """
    far = max(config.num_maskmem, config.max_object_pointers_in_encoder) + 1
    for outputs in session.output_dict_per_obj.values():
        recent = outputs["non_cond_frame_outputs"]
        recent.get(index, {}).pop("high_res_masks", None)
        for old in [each for each in recent if abs(each - index) > far and abs(each - first) > far]:
            del recent[old]


def _binary(logits: Tensor, size: Size) -> Plane:
    """The mask of logits ``[1, 1, h, w]`` at the clip's size."""
    large = nnf.interpolate(logits.float(), (size.height, size.width), mode="bilinear", align_corners=False)
    return np.asarray((large[0, 0] > 0).numpy())
