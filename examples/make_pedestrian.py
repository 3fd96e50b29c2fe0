"""Makes the files of examples/pedestrian/ from OpenCV's sample video vtest.avi.

    python examples/make_pedestrian.py PATH/TO/vtest.avi

Everything is computed from the video and the constants below, so a second run writes the same pixels: the source clip
(a fixed crop around one walking man), a loose mask that follows him, and his edited first and last frames. The edits
are drawn from hand-placed outlines: a striped orange coat and a yellow hat.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Points = list[tuple[float, float]]

OUT = Path(__file__).parent / "pedestrian"

# The crop, in pixels of the 768x576 video, and its frames.
LEFT, TOP, WIDTH, HEIGHT = 548, 154, 128, 192
FIRST_FRAME, FRAMES, FPS = 60, 33, 10

SCALER = 0x4 | 0x2000 | 0x40000 | 0x80000  # swscale: bicubic, full chroma, exact rounding; the same on every CPU

FOREGROUND_LEVEL = 28  # a pixel that differs this much from the background (of 255) belongs to a moving object
MARGIN = 0.15  # the mask's margin on every side, as a share of the man's width
HAT_PX = 4  # additional margin above, for the hat

SUPERSAMPLE = 8  # factor by which outlines are drawn larger, before they are averaged down
COAT_LUMA = 64.0  # the brightest luma of the old coat; a pixel at or below it is coat only
COAT = np.array([236.0, 92.0, 28.0])
STRIPE = np.array([250.0, 232.0, 190.0])
HAT = np.array([252.0, 208.0, 40.0])
BRIM = np.array([44.0, 84.0, 190.0])


@dataclass(frozen=True)
class Outfit:
    """Describes where the clothes are in one frame, in pixels of the crop (x right, y down).

    Attributes:
        frame: index in the clip.
        coat: outline of the coat; it may be loose towards the pavement, where the luma separates coat and ground.
        stripes: y of each stripe in the middle of the back.
        stripe_px: thickness of a stripe.
        body_x: middle and half width of the back; a stripe bends up towards the sides.
        head: centre x, top y, half width and height of the hat.
    """

    frame: int
    coat: Points
    stripes: tuple[float, ...]
    stripe_px: float
    body_x: tuple[float, float]
    head: tuple[float, float, float, float]


FIRST = Outfit(
    frame=0,
    coat=[
        (79, 90.4), (89, 90.4), (90.5, 91.8), (94, 92.5), (98.5, 95), (101, 101), (102.5, 110), (103.5, 124),
        (103, 130), (101.5, 131.5), (96.5, 130.5), (96, 134), (76, 134), (75.5, 131.5), (73.5, 130.5), (67.5, 131.5),
        (66.5, 126), (67, 118), (68, 110), (69.5, 102), (71, 97), (75, 93.5), (77, 92), (77, 90.8),
    ],
    stripes=(108.0, 117.5),
    stripe_px=4.6,
    body_x=(85.5, 17.0),
    head=(84.6, 76.0, 6.6, 11.6),
)  # fmt: skip
LAST = Outfit(
    frame=FRAMES - 1,
    coat=[
        (36, 19.6), (46.5, 19.6), (48, 22), (51.5, 22.5), (54, 26), (55, 33), (56, 40), (57, 45), (57, 50.8),
        (50, 50.8), (49, 53), (46, 54), (43.5, 56), (38, 56), (36, 54.3), (31, 54.3), (31, 50.8), (24, 50.8),
        (24, 45), (25, 40), (27, 33), (28, 26), (30, 23), (36, 21.5),
    ],
    stripes=(33.6, 41.2),
    stripe_px=3.7,
    body_x=(40.5, 14.0),
    head=(41.7, 8.6, 5.3, 9.4),
)  # fmt: skip


# ---- the clip ----------------------------------------------------------------------------------------------------


def decode_crops(path: Path) -> list[Bytes]:
    """Returns the crop of every frame of the video, ``[HEIGHT, WIDTH, 3]`` RGB."""
    with av.open(path) as container:
        frames = container.decode(video=0)
        return [to_rgb(frame)[TOP : TOP + HEIGHT, LEFT : LEFT + WIDTH] for frame in frames]


def to_rgb(frame: av.VideoFrame) -> Bytes:
    """Converts a whole frame to ``[H, W, 3]`` RGB."""
    rgb = frame.reformat(format="rgb24", src_colorspace="ITU601", interpolation=SCALER)
    return rgb.to_ndarray().astype(np.uint8)


def write_ffv1(path: Path, frames: list[Bytes], given: str, stored: str) -> None:
    """Writes a lossless clip; bit-exact muxing leaves out random ids and library versions."""
    codec = {"level": "3", "coder": "1", "context": "1", "slices": "4", "g": str(len(frames)), "flags": "+bitexact"}
    with av.open(path, "w", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=FPS, options=codec)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, stored
        for array in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format=given)
            container.mux(stream.encode(frame.reformat(format=stored)))
        container.mux(stream.encode())


# ---- the mask ----------------------------------------------------------------------------------------------------


def person_box(rgb: Bytes, background: Bytes) -> tuple[int, int, int, int]:
    """Returns left, top, right, bottom (exclusive) of the largest region that differs from the background."""
    difference = np.abs(rgb.astype(np.int16) - background).max(axis=-1)
    moving = (difference > FOREGROUND_LEVEL).astype(np.uint8)
    moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((9, 5), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(moving)
    left, top, width, height, _ = stats[1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])]
    return int(left), int(top), int(left + width), int(top + height)


def smooth_over_time(values: Floats, outermost: np.ufunc, radius: int = 2) -> Floats:
    """Takes the outermost value near each frame, then averages: a smooth edge that hardly cuts inwards."""
    padded = np.pad(values, 2 * radius, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1)
    extremes = outermost.reduce(windows, axis=-1)
    smooth: Floats = np.lib.stride_tricks.sliding_window_view(extremes, 2 * radius + 1).mean(axis=-1)
    return smooth


def follow_person(clip: list[Bytes], background: Bytes) -> list[Bytes]:
    """Returns one loose box mask per frame, ``[HEIGHT, WIDTH]``, 255 = edit."""
    boxes = np.array([person_box(rgb, background) for rgb in clip], dtype=np.float64)
    left, top = (smooth_over_time(boxes[:, side], np.minimum) for side in (0, 1))
    right, bottom = (smooth_over_time(boxes[:, side], np.maximum) for side in (2, 3))
    margin = MARGIN * (right - left)
    edges = np.stack([left - margin, top - margin - HAT_PX, right + margin, bottom + margin], axis=-1)
    return [filled_box(*np.rint(edge).astype(int).tolist()) for edge in edges]


def filled_box(left: int, top: int, right: int, bottom: int) -> Bytes:
    """Returns a black mask with one white box, clipped to the frame."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[max(top, 0) : bottom, max(left, 0) : right] = 255
    return mask


# ---- the edit ----------------------------------------------------------------------------------------------------


def luma_of(rgb: npt.NDArray[np.generic]) -> Floats:
    """Returns the Rec. 601 luma, 0 to 255."""
    return np.tensordot(rgb.astype(np.float64), np.array([0.299, 0.587, 0.114]), axes=1)


def average_down(large: Floats) -> Floats:
    """Averages the supersampled canvas down to the frame's own pixels."""
    small: Floats = large.reshape(HEIGHT, SUPERSAMPLE, WIDTH, SUPERSAMPLE).mean(axis=(1, 3))
    return small


def canvas() -> tuple[Floats, Floats]:
    """Returns x and y of every supersample, in pixels of the crop."""
    y, x = np.mgrid[0 : HEIGHT * SUPERSAMPLE, 0 : WIDTH * SUPERSAMPLE] + 0.5
    return x / SUPERSAMPLE, y / SUPERSAMPLE


def polygon_cover(points: Points) -> Floats:
    """Returns how much of each pixel lies in the polygon, 0 to 1."""
    large = np.zeros((HEIGHT * SUPERSAMPLE, WIDTH * SUPERSAMPLE), np.uint8)
    cv2.fillPoly(large, [np.rint(np.array(points) * SUPERSAMPLE).astype(np.int32)], 1)
    return average_down(large.astype(np.float64))


def stripe_cover(outfit: Outfit) -> Floats:
    """Returns how much of each pixel lies in a stripe, 0 to 1; a stripe sags in the middle of the back."""
    x, y = canvas()
    middle, half_width = outfit.body_x
    sag = 2.2 * ((x - middle) / half_width) ** 2
    inside = [np.abs(y + sag - centre) < outfit.stripe_px / 2 for centre in outfit.stripes]
    return average_down(np.logical_or.reduce(inside).astype(np.float64))


def mix(below: Floats, above: Floats, cover: Floats) -> Floats:
    """Lays one picture over another, ``cover`` 0 to 1."""
    return below + cover[..., None] * (above - below)


def recolour_coat(rgb: Floats, background: Floats, outfit: Outfit) -> Floats:
    """Gives the dark coat new colours, and keeps its folds (its luma, stretched) and its soft outline."""
    luma, ground = luma_of(rgb), luma_of(background)
    opacity = np.clip((ground - luma) / (ground - COAT_LUMA), 0, 1) * (luma < ground - 12)
    solid = ((opacity > 0.97) & (polygon_cover(outfit.coat) > 0.9)).astype(np.float64)
    local = cv2.GaussianBlur(solid * luma, (0, 0), 0.9) / np.maximum(cv2.GaussianBlur(solid, (0, 0), 0.9), 1e-6)
    dark, light = np.percentile(luma[solid > 0], [3, 97])
    shade = 0.5 + 0.55 * np.clip((local - dark) / (light - dark), 0, 1) ** 0.8
    dye = mix(np.broadcast_to(COAT, rgb.shape), np.broadcast_to(STRIPE, rgb.shape), stripe_cover(outfit))
    cloth = mix(background, np.minimum(dye * shade[..., None], 255), opacity)
    return mix(rgb, cloth, polygon_cover(outfit.coat) * (opacity > 0))


def put_on_hat(rgb: Floats, outfit: Outfit) -> Floats:
    """Draws a knitted hat: a dome lit from above, and a turned-up brim."""
    x, y = canvas()
    centre, top, half_width, height = outfit.head
    u, v = (x - centre) / half_width, (y - top) / height  # v: 0 at the top, 1 at the brim's lower edge
    bend = 0.07 * (1 - u**2)
    brim_line, lower_edge = 0.64 + bend, 0.93 + bend
    dome = (np.abs(u) < np.clip(1 - np.abs((v - 0.7) / 0.7) ** 2.4, 0, 1) ** (1 / 2.4)) & (v < brim_line)
    brim = (np.abs(u) < 1.06) & (v >= brim_line) & (v < lower_edge)
    light = average_down(1.06 - 0.30 * u**2 - 0.28 * np.clip(v, 0, 1))[..., None]
    hatted = mix(rgb, np.clip(HAT * light, 0, 255), average_down(dome.astype(np.float64)))
    return mix(hatted, np.clip(BRIM * (light + 0.15), 0, 255), average_down(brim.astype(np.float64)))


def dress(rgb: Bytes, background: Bytes, outfit: Outfit) -> Bytes:
    """Returns the edited frame: new coat, new hat, every other pixel unchanged."""
    edited = recolour_coat(rgb.astype(np.float64), background.astype(np.float64), outfit)
    return np.rint(np.clip(put_on_hat(edited, outfit), 0, 255)).astype(np.uint8)


def main(video: Path) -> None:
    """Writes every file of the example."""
    OUT.mkdir(exist_ok=True)
    crops = decode_crops(video)
    background = np.median(np.stack(crops[::5]), axis=0).astype(np.uint8)
    clip = crops[FIRST_FRAME : FIRST_FRAME + FRAMES]
    masks = follow_person(clip, background)

    write_ffv1(OUT / "source.mkv", clip, given="rgb24", stored="bgr0")
    write_ffv1(OUT / "mask.mkv", masks, given="gray", stored="gray")
    for name, outfit in {"first_frame_edited.png": FIRST, "last_frame_edited.png": LAST}.items():
        edited = dress(clip[outfit.frame], background, outfit)
        changed = (edited != clip[outfit.frame]).any(axis=-1)
        assert not (changed & (masks[outfit.frame] == 0)).any(), f"{name} changes pixels outside the mask"
        Image.fromarray(edited).save(OUT / name, optimize=True)


def argument_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="vtest.avi, as OpenCV ships it")
    return parser


if __name__ == "__main__":
    main(argument_parser().parse_args().video)
