"""The keyframes of a segment: which are carried for training, and which for generation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from loraedit.editing.target_clip import ClipKeyframe, TargetClip, nearest_frame
from loraedit.job.segments import Segment
from loraedit.propagation.keyframes import Keyframe
from loraedit.types import Frames

__all__ = ["all_keyframes", "generation_choice", "training_choices"]


def training_choices(clip: TargetClip, segment: Segment, source: Frames) -> list[dict[str, Keyframe]]:
    """Returns the keyframes of each guide for training.

    The last fixed frame is the source's own here; in generation it is a generated one, so it counts as generated.
    """
    first = {"source first": _keyframe(clip.first, segment, is_source=True)}
    last = {"source last": _source_keyframe(source, len(source) - 1)} if len(source) > 1 else {}
    fixed = {"source fixed": _source_keyframe(source, segment.fixed - 1, generated=True)} if segment.fixed else {}
    choices = [first | fixed, first | last | fixed]
    if any(keyframe.index and keyframe.index in segment for keyframe in clip.keyframes):
        choices.append(_edited_keyframes([clip.first], segment))
    return choices


def generation_choice(clip: TargetClip, segment: Segment, frames: Frames, fixed: Frames) -> dict[str, Keyframe]:
    """Returns the user's keyframes and the last fixed frame, which replaces a keyframe of the same index.

    Args:
        clip: the target's clip.
        segment: the segment.
        frames: its source at the window's size.
        fixed: its fixed frames; none in the first segment.
    """
    edited, last = _edited_keyframes(clip.keyframes, segment), len(fixed) - 1
    if last < 0:
        return edited
    others = {name: keyframe for name, keyframe in edited.items() if keyframe.index != last}
    return others | {"last fixed": Keyframe(last, fixed[last], frames[last], generated=True)}


def all_keyframes(choices: Iterable[Mapping[str, Keyframe]]) -> dict[str, Keyframe]:
    """Returns the keyframes of several choices; the same name means the same keyframe."""
    return {name: keyframe for choice in choices for name, keyframe in choice.items()}


def _edited_keyframes(keyframes: Iterable[ClipKeyframe], segment: Segment) -> dict[str, Keyframe]:
    return {f"edited {each.index}": _keyframe(each, segment, is_source=False) for each in keyframes}


def _keyframe(keyframe: ClipKeyframe, segment: Segment, *, is_source: bool) -> Keyframe:
    """Returns a keyframe of the clip, or its source counterpart, as one of a segment."""
    index, image = keyframe.index - segment.start, keyframe.source if is_source else keyframe.edited
    if keyframe.index in segment:
        return Keyframe(index, image, keyframe.source, is_source)
    path = keyframe.paths[nearest_frame(segment, keyframe.index)]
    return Keyframe(index, image, keyframe.source, is_source, path=path, shape=keyframe.shape)


def _source_keyframe(source: Frames, index: int, *, generated: bool = False) -> Keyframe:
    return Keyframe(index, source[index], source[index], is_source=True, generated=generated)
