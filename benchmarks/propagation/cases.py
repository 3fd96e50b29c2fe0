"""Draws cases of "edit the first frame, and the clip follows", each with its true result.

Source and truth are the same scene, drawn twice: one object looks different in the truth, everything else is the same.
There are eight kinds of five cases:

    recolour    the same pattern in other colours
    turning     another pattern on a solid that turns by 40 to 80 degrees
    outline     an added part that changes the outline: a hat, handles, a sail, a bow, wings
    unseen      the solid turns by 150 to 175 degrees; its back, hidden in frame 1, gets a pattern of its own
    occluded    the object passes behind something that is kept
    pan         the camera pans
    scale       the object comes nearer and grows by 1.6 to 1.8
    two         another object moves as well and is kept
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.propagation.motion import CURVES, placed
from benchmarks.propagation.render import Part, Scene, Thing, render, silhouette
from benchmarks.propagation.textures import (
    PATTERNS,
    Field,
    Rng,
    Texture,
    backdrop,
    dye,
    other_pattern,
    patched,
    wrapped,
)
from benchmarks.propagation.things import ADDED, THINGS, extent
from loraedit.masks.shaping import box_regions
from loraedit.types import Frames, Mask

__all__ = ["KINDS", "PER_KIND", "Case", "all_cases", "case_ids", "make_case", "scenes"]

Parts = tuple[Part, ...]

PER_KIND = 5
CAST = {
    "recolour": ("ball bounce", "car drive", "figure wander", "letter swing", "mug arc"),
    "turning": ("ball wander", "mug arc", "parcel bounce", "lamp swing", "egg arc"),
    "outline": ("ball wander", "cup arc", "car drive", "parcel bounce", "figure swing"),
    "unseen": ("ball arc", "parcel wander", "tin drive", "egg bounce", "mug wander"),
    "occluded": ("ball drive", "car drive", "leaf drive", "mug drive", "figure drive"),
    "pan": ("scrap wander", "car drive", "lamp swing", "ball bounce", "tin arc"),
    "scale": ("parcel wander", "leaf arc", "mug drive", "letter wander", "ball swing"),
    "two": ("egg bounce", "scrap swing", "car drive", "mug wander", "parcel arc"),
}
"""Object and motion of each case."""
KINDS = tuple(CAST)
SEEDS = {
    "recolour": (0, 0, 0, 5, 0),
    "turning": (0, 1, 0, 2, 1),
    "outline": (0, 3, 7, 0, 35),
    "unseen": (0, 38, 0, 1, 7),
    "occluded": (2, 9, 2, 2, 6),
    "pan": (1, 0, 0, 0, 0),
    "scale": (5, 12, 7, 3, 5),
    "two": (21, 8, 55, 1, 21),
}
"""Chosen by eye so that the edit is clearly visible and the object stands out from its background."""
MAX_SPAN = 0.38
"""Largest distance of an object's outline from its origin, as a fraction of the frame."""
PROBE = 64
"""Side in pixels of the pictures by which an object is measured."""
BACK = {"ellipsoid": 1, "frustum": 1, "box": 2}
"""The tile of a solid that is hidden before it turns."""


@dataclass(frozen=True)
class Case:
    """Holds an edit with its true result.

    Attributes:
        name: kind and number, as in ``pan-3``.
        kind: one of ``KINDS``.
        source: ``[F, H, W, 3]`` uint8, the clip before the edit.
        truth: ``[F, H, W, 3]`` uint8, the clip after it; the same as the source wherever the mask is False.
        mask: ``[F, H, W]`` bool, a loose edit mask: the box of the whole object before and after, grown by a tenth on
            each side. It may include parts of something in front of the object.
        region: ``[F, H, W]`` bool, where the edited object (for an outline: the added part) is visible in the truth.
    """

    name: str
    kind: str
    source: Frames
    truth: Frames
    mask: Mask
    region: Mask


def case_ids() -> list[tuple[str, int]]:
    """Returns kind and number of every case."""
    return [(kind, number) for kind in KINDS for number in range(PER_KIND)]


def all_cases(frames: int = 17, height: int = 128, width: int = 128) -> Iterator[Case]:
    """Yields every case, made one at a time."""
    return (make_case(kind, number, frames, height, width) for kind, number in case_ids())


def make_case(kind: str, number: int, frames: int = 17, height: int = 128, width: int = 128) -> Case:
    """Draws a case. The motion is the same for any number of frames and any size, only sampled differently.

    Args:
        kind: one of ``KINDS``.
        number: 0 to ``PER_KIND`` - 1.
        frames: at least 2.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
    """
    before, after = scenes(kind, number, frames)
    source, truth = (render(scene, height, width) for scene in (before, after))
    thing = before.edited_thing
    whole = (source.amodal[thing] > 0) | (truth.amodal[thing] > 0)
    mask = box_regions(whole, 0.1)
    return Case(f"{kind}-{number}", kind, source.frames, truth.frames, mask, truth.edited > 0.5)


def scenes(kind: str, number: int, frames: int) -> tuple[Scene, Scene]:
    """Returns the scene of a case before and after the edit."""
    rng = np.random.default_rng((20_260_000, KINDS.index(kind), number, SEEDS[kind][number]))
    time = np.linspace(0, 1, frames)
    name, curve = CAST[kind][number].split()
    before = THINGS[name](rng)
    after = edited(rng, kind, number, name, before)
    path = thing_path(rng, kind, curve, before, after, time)
    things = [Thing(before, path)]
    if kind == "occluded":
        things += [OCCLUDERS[number](rng, path)]
    if kind == "two":
        things.insert(number % 2, other_thing(rng, time))
    at = next(index for index, thing in enumerate(things) if thing.parts is before)
    scene = Scene(backdrop(rng), camera_path(rng, kind, time), tuple(things), at)
    things[at] = replace(things[at], parts=after)
    return scene, replace(scene, things=tuple(things))


# ---- edits -------------------------------------------------------------------------------------------------------


def edited(rng: Rng, kind: str, number: int, name: str, parts: Parts) -> Parts:
    """Returns the object after the edit."""
    if kind == "outline":
        return parts + tuple(replace(part, edited=True) for part in ADDED[name](rng))
    if kind == "recolour" or (kind not in ("turning", "unseen") and number % 2):
        seed = int(rng.integers(2**31))
        return tuple(_with_skin(part, dye(np.random.default_rng(seed), part.skin)) for part in parts)
    skin = two_faced(rng, parts[0]) if kind == "unseen" else new_skin(rng, parts[0])
    return tuple(_with_skin(part, skin) for part in parts)


def _with_skin(part: Part, skin: Texture) -> Part:
    """Returns the part with another skin, or unchanged if the edit does not concern it."""
    return replace(part, skin=skin, edited=True) if part.main else part


def new_skin(rng: Rng, part: Part) -> Texture:
    """Draws another pattern for all sides of a solid."""
    pattern = other_pattern(rng)
    return patched(rng, *[pattern] * 6) if part.solid == "box" else wrapped(rng, pattern)


def two_faced(rng: Rng, part: Part) -> Texture:
    """Draws one pattern for everything visible in frame 1, and another in its own colours for the back."""
    seen = other_pattern(rng)
    unseen = other_pattern(rng, seen)
    front, back = patched(rng, seen), patched(rng, unseen)
    tiles = [front] * (6 if part.solid == "box" else 2)
    tiles[BACK[part.solid]] = back
    return np.concatenate(tiles, 1)


# ---- motion ------------------------------------------------------------------------------------------------------


def thing_path(rng: Rng, kind: str, curve: str, before: Parts, after: Parts, time: Field) -> Field:
    """Draws place and turn of the object, ``[F, 6]`` as in ``Thing``, such that all of it stays in the frame."""
    growth = rng.uniform(1.6, 1.8) if kind == "scale" else 1.0
    share = rng.uniform(0.09, 0.12) if kind in ("scale", "occluded") else rng.uniform(0.1, 0.17)
    travel = rng.uniform(0.4, 0.45) if kind == "occluded" else rng.uniform(0.22, 0.42)
    raw = CURVES[curve](rng, time)
    turn = turning(rng, kind, before[0].solid, time) + raw[:, 2:] * (0, 0, 1)
    trial = np.column_stack([np.full((len(time), 2), 0.5), np.full_like(time, 0.49 / extent(after)), turn])
    covered = silhouette(Thing(before, trial), 0, PROBE).mean()
    span = half_span(Thing(after, trial[:: max(1, len(time) // 8)])) / trial[0, 2]
    unit = min(trial[0, 2] * np.sqrt(share / covered), MAX_SPAN / span.max() / growth)
    track = placed(rng, raw[:, :2], travel, span * unit * growth + 0.02)
    return np.column_stack([track, unit * growth**time, turn])


def half_span(thing: Thing) -> Field:
    """Returns the object's largest distance from its origin in x and in y, as a fraction of the frame."""
    drawn = np.max([silhouette(thing, frame, PROBE) for frame in range(len(thing.path))], 0) > 0
    from_centre = [np.abs(np.flatnonzero(drawn.any(axis)) + 0.5 - PROBE / 2).max() + 0.5 for axis in (0, 1)]
    return np.array(from_centre) / PROBE


def turning(rng: Rng, kind: str, solid: str, time: Field) -> Field:
    """Draws yaw, pitch and roll over time, ``[F, 3]``, before the curve's own roll is added."""
    degrees = {"turning": (40, 80), "unseen": (150, 175), "outline": (15, 40)}.get(kind, (5, 25))
    sweep = np.radians(rng.uniform(*degrees)) * rng.choice([-1, 1])
    pace = time + 0.08 * np.sin(2 * np.pi * time)
    if kind == "unseen":
        start, pitch = (0.4 * np.sign(sweep), 0.35) if solid == "box" else (0.0, 0.0 if solid == "ellipsoid" else 0.3)
    else:
        start, pitch = rng.uniform(0.2, 0.5) * -np.sign(sweep), rng.uniform(0.15, 0.4)
    pitch = 0.0 if solid == "card" else pitch
    return np.column_stack([start + sweep * pace, np.full_like(time, pitch), 0 * time])


def camera_path(rng: Rng, kind: str, time: Field) -> Field:
    """Draws the camera's window over the backdrop, ``[F, 3]`` as in ``Scene``: it pans, zooms or stands still."""
    if kind == "pan":
        side = rng.uniform(0.5, 0.6)
        track = placed(
            rng, CURVES["wander"](rng, time)[:, :2], side * rng.uniform(0.3, 0.45), np.full(2, side / 2 + 0.02)
        )
        return np.column_stack([track, np.full_like(time, side)])
    zoom = rng.choice([0, 0, 0.1, -0.1])
    return np.column_stack([np.full((len(time), 2), 0.5), rng.uniform(0.7, 0.82) * (1 + zoom * time)])


# ---- what is kept ------------------------------------------------------------------------------------------------


def other_thing(rng: Rng, time: Field) -> Thing:
    """Draws a smaller object that moves on its own path."""
    parts = THINGS[str(rng.choice(["ball", "tin", "leaf", "lamp", "figure"]))](rng)
    unit = rng.uniform(0.21, 0.25) / extent(parts)
    raw = CURVES[str(rng.choice(["wander", "arc", "drive"]))](rng, time)
    track = placed(rng, raw[:, :2], rng.uniform(0.3, 0.6), np.full(2, 0.22))
    turn = turning(rng, "two", parts[0].solid, time) + raw[:, 2:] * (0, 0, 1)
    return Thing(parts, np.column_stack([track, np.full_like(time, unit), turn]))


def standing(path: Field, *parts: Part) -> Thing:
    """Places something where the object passes after two thirds of its path; y = 0 is the middle of the frame."""
    still = np.zeros_like(path)
    still[:, :3] = path[0, 0] + 0.6 * (path[-1, 0] - path[0, 0]), 0.5, 1.0
    return Thing(parts, still)


def column(rng: Rng, path: Field) -> Thing:
    return standing(path, Part("frustum", (rng.uniform(0.06, 0.08), 0.8, 0.08), wrapped(rng, PATTERNS[1])))


def fence(rng: Rng, path: Field) -> Thing:
    skin = wrapped(rng, PATTERNS[3])
    posts = [Part("box", (0.035, 0.8, 0.03), skin, (x, 0, 0)) for x in (-0.11, 0.11)]
    return standing(path, *posts, Part("box", (0.2, 0.03, 0.02), skin, (0, 0.2, 0.02)))


def tree(rng: Rng, path: Field) -> Thing:
    trunk = Part("frustum", (0.06, 0.8, 0.06), wrapped(rng, PATTERNS[3]), taper=0.6)
    crown = Part("ellipsoid", (0.2, 0.17, 0.1), wrapped(rng, PATTERNS[0]), (0, -0.32, 0.05))
    return standing(path, trunk, crown)


def sign(rng: Rng, path: Field) -> Thing:
    pole = Part("frustum", (0.025, 0.6, 0.025), patched(rng, PATTERNS[1]), (0, 0.3, 0))
    height = path[:, 1].mean() - 0.5
    return standing(
        path, pole, Part("box", (0.09, 0.12, 0.02), patched(rng, PATTERNS[8]), (0, height, 0.06), (0.2, 0, 0))
    )


def passer(rng: Rng, path: Field) -> Thing:
    """Draws a ball that comes the other way, nearer to the viewer."""
    opposite = np.zeros_like(path)
    opposite[:, 0] = 1 - path[:, 0]
    opposite[:, 1] = np.clip(path[:, 1] + 0.06, 0.2, 0.8)
    opposite[:, 2] = 0.12
    opposite[:, 3] = np.linspace(0, 1.5, len(path))
    return Thing(THINGS["ball"](rng), opposite)


OCCLUDERS = (column, fence, tree, sign, passer)
