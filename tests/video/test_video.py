"""Lossless clips stay lossless on disk, refusals state their reason, and no partial file remains."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import FPS, difference, noise, noisy_clip, save_png, smooth_clip
from films import QUARTER_TURN_CLOCKWISE, turn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from loraedit import video
from loraedit.errors import InputError
from loraedit.types import Clip, Size


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Lossless and lossy


@pytest.mark.parametrize("name", ["clip.mkv", "folder"])
@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.integers(1, 37), st.integers(1, 37), st.integers(0, 2**31))
def test_ffv1_and_png_keep_noise_of_any_size_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, name: str, f: int, h: int, w: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("clip") / name
    frames = noise(f, h, w, 3, seed=seed)
    video.write_clip(path, Clip(frames, FPS))
    assert np.array_equal(video.read_clip(path).frames, frames)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("fps", [Fraction(24), Fraction(25), FPS, Fraction(24000, 1001), Fraction(10), Fraction(15, 2)])
def test_videos_keep_the_frame_rate_and_every_frame(tmp_path: Path, suffix: str, fps: Fraction) -> None:
    video.write_clip(tmp_path / f"clip{suffix}", noisy_clip(5, fps=fps))
    clip = video.read_clip(tmp_path / f"clip{suffix}")
    assert clip.fps == fps and len(clip) == 5 and clip.size == Size(32, 48)


def test_a_folder_plays_at_the_default_rate(tmp_path: Path) -> None:
    video.write_clip(tmp_path / "out", noisy_clip())
    assert listing(tmp_path / "out") == ["00000.png", "00001.png", "00002.png"]
    assert video.read_clip(tmp_path / "out").fps == video.DEFAULT_FPS == 24


def test_mp4_reads_back_nearly_the_same(tmp_path: Path) -> None:
    clip = smooth_clip()
    video.write_clip(tmp_path / "clip.mp4", clip)
    error = difference(video.read_clip(tmp_path / "clip.mp4").frames, clip.frames)
    assert error.max() <= 8 and error.mean() < 1.5


def test_mp4_keeps_saturated_colours(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]], np.uint8)
    for index, colour in enumerate(colours):
        path = tmp_path / f"{index}.mp4"
        video.write_clip(path, Clip(np.broadcast_to(colour, (2, 32, 32, 3)), FPS))
        assert difference(video.read_clip(path).frames, colour).max() <= 3


def test_mp4_is_tagged_and_converted_as_bt709(tmp_path: Path) -> None:
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), (1, 32, 32, 3))
    video.write_clip(tmp_path / "clip.mp4", Clip(red, FPS))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        context = container.streams.video[0].codec_context
        tags = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        luma = next(container.decode(video=0)).to_ndarray()[0, 0]
    assert tags == (1, 1, 1, 1) and context.pix_fmt == "yuv420p"
    assert abs(int(luma) - 63) <= 1  # 16 + 219 * 0.2126; BT.601 would give 81


@pytest.mark.parametrize(("height", "width"), [(33, 47), (1, 1), (32, 47)])
def test_odd_sides_of_an_mp4_grow_by_a_copy_of_the_last_line(tmp_path: Path, height: int, width: int) -> None:
    clip = smooth_clip(2, height, width)
    video.write_clip(tmp_path / "clip.mp4", clip)
    frames = video.read_clip(tmp_path / "clip.mp4").frames
    assert frames.shape == (2, height + height % 2, width + width % 2, 3)
    assert difference(frames[:, :height, :width], clip.frames).max() <= 8
    if width % 2:
        assert difference(frames[:, :, -1], frames[:, :, -2]).max() <= 8


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv"])
@pytest.mark.parametrize("clip", [smooth_clip(12), noisy_clip(3, 33, 47)], ids=["smooth", "noise"])
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, name: str, clip: Clip) -> None:
    contents = set()
    for _ in range(6):
        video.write_clip(tmp_path / name, clip)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1


# Reading


def test_rotated_videos_come_out_upright(tmp_path: Path) -> None:
    path = tmp_path / "phone.mp4"
    video.write_clip(path, smooth_clip())
    stored = video.read_clip(path).frames
    turn(path, QUARTER_TURN_CLOCKWISE)
    assert np.array_equal(video.read_clip(path).frames, np.rot90(stored, -1, axes=(1, 2)))


def test_a_gif_is_a_clip(tmp_path: Path) -> None:
    flat = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    flat[0].save(tmp_path / "clip.gif", save_all=True, append_images=flat[1:], duration=100)
    clip = video.read_clip(tmp_path / "clip.gif")
    assert clip.frames[:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]] and clip.fps == 10


def test_frames_are_read_in_natural_order(tmp_path: Path) -> None:
    written = {number: save_png(tmp_path / f"frame{number}.png", seed=number) for number in (10, 2, 1, 100)}
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "._frame1.png").write_text("not a frame either")
    expected = np.stack([written[number] for number in (1, 2, 10, 100)])
    assert np.array_equal(video.read_clip(tmp_path).frames, expected)


@pytest.mark.parametrize("suffix", [".PNG", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"])
def test_folders_may_hold_any_kind_of_image(tmp_path: Path, suffix: str) -> None:
    save_png(tmp_path / f"1{suffix}")
    assert video.read_clip(tmp_path).frames.shape == (1, 4, 6, 3)


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.webp", "image.bmp", "image.tif"])
def test_a_still_is_a_clip_of_one_frame(tmp_path: Path, name: str) -> None:
    save_png(tmp_path / name)
    assert np.array_equal(video.read_clip(tmp_path / name).frames[0], video.read_image(tmp_path / name))


def test_write_image_then_read_image_is_the_identity(tmp_path: Path) -> None:
    image = noise(7, 5, 3)
    video.write_image(tmp_path / "new" / "image.png", image)
    assert np.array_equal(video.read_image(tmp_path / "new" / "image.png"), image)
    assert listing(tmp_path / "new") == ["image.png"]


def test_images_are_turned_by_their_exif_orientation(tmp_path: Path) -> None:
    pixels = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned; to be shown a quarter turn clockwise
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(video.read_image(tmp_path / "photo.png"), np.rot90(pixels, -1))


def test_16_bit_grey_is_scaled_to_8_bits(tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image = video.read_image(tmp_path / "deep.png")
    assert image[0].tolist() == [[0] * 3, [0] * 3, [1] * 3, [128] * 3, [255] * 3]


def test_transparent_pixels_are_laid_over_black(tmp_path: Path) -> None:
    pixels = np.array([[[10, 20, 30, 255], [255, 255, 255, 0]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "layer.png")
    assert video.read_image(tmp_path / "layer.png").tolist() == [[[10, 20, 30], [0, 0, 0]]]


@pytest.mark.parametrize(("mode", "suffix"), [("P", "png"), ("L", "png"), ("1", "png"), ("LA", "png"), ("CMYK", "tif")])
def test_every_kind_of_colour_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    Image.new("RGB", (3, 2), "white").convert(mode).save(tmp_path / f"image.{suffix}")
    image = video.read_image(tmp_path / f"image.{suffix}")
    assert image.shape == (2, 3, 3) and image.dtype == np.uint8 and bool((image == 255).all())


# Refusals when reading


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no video file or folder.*nowhere"):
        video.read_clip(tmp_path / "nowhere.mp4")
    with pytest.raises(InputError, match="There is no image"):
        video.read_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("empty.mp4", b"", "cannot be read as a video"),
        ("clip.mp4", b"\x00\x01\x02" * 100, "cannot be read as a video"),
        ("clip.txt", b"hello " * 100, "is a text file"),
    ],
)
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        video.read_clip(tmp_path / name)


def test_a_video_cut_short_in_its_header_is_refused(tmp_path: Path) -> None:
    video.write_clip(tmp_path / "clip.mp4", noisy_clip(8))
    (tmp_path / "clip.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:400])
    with pytest.raises(InputError, match="it is damaged, or no video"):
        video.read_clip(tmp_path / "clip.mp4")


@pytest.mark.parametrize(("name", "patch"), [("clip.mp4", 0), ("clip.mp4", 300), ("clip.mkv", 300)])
def test_a_video_damaged_half_way_is_refused_with_its_readable_frames(tmp_path: Path, name: str, patch: int) -> None:
    video.write_clip(tmp_path / name, noisy_clip(12))
    content = (tmp_path / name).read_bytes()
    half = len(content) // 2
    rest = noise(patch, seed=1).tobytes() + content[half + patch :] if patch else b""
    (tmp_path / name).write_bytes(content[:half] + rest)
    with pytest.raises(InputError, match=r"it is damaged, and only [1-9] of its frames can be decoded"):
        video.read_clip(tmp_path / name)


def test_sound_without_picture_is_refused(tmp_path: Path) -> None:
    write_sound(tmp_path / "song.m4a")
    with pytest.raises(InputError, match="has sound but no picture"):
        video.read_clip(tmp_path / "song.m4a")


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgr0"
        container.start_encoding()
    with pytest.raises(InputError, match=r"no frame that can be decoded|cannot be read as a video"):
        video.read_clip(tmp_path / "clip.mkv")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no frames here")
    with pytest.raises(InputError, match="holds no frames"):
        video.read_clip(tmp_path)


def test_frames_of_two_sizes_are_refused(tmp_path: Path) -> None:
    save_png(tmp_path / "1.png")
    save_png(tmp_path / "2.png", width=8)
    with pytest.raises(InputError, match=r"2\.png is 8x4, but .*1\.png is 6x4"):
        video.read_clip(tmp_path)


@pytest.mark.parametrize("keep", [0, 30, 120])
def test_an_unreadable_image_is_refused(tmp_path: Path, keep: int) -> None:
    save_png(tmp_path / "1.png", 16, 16)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:keep])
    with pytest.raises(InputError, match=r"1\.png cannot be read as an image"):
        video.read_clip(tmp_path)


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "depth.tif")
    with pytest.raises(InputError, match="expected 8 or 16 bits"):
        video.read_image(tmp_path / "depth.tif")


@pytest.mark.parametrize("limit", [10, 20])
def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    save_png(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match="too large to decode"):
        video.read_image(tmp_path / "bomb.png")


# Writing


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "folder"])
def test_writing_replaces_and_leaves_nothing_else(tmp_path: Path, name: str) -> None:
    video.write_clip(tmp_path / "deep" / name, noisy_clip(4))
    video.write_clip(tmp_path / "deep" / name, noisy_clip(2))
    assert listing(tmp_path / "deep") == [name]
    assert len(video.read_clip(tmp_path / "deep" / name)) == 2


@pytest.mark.parametrize("name", ["clip.mkv", "folder"])
def test_a_failed_write_leaves_the_old_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    video.write_clip(tmp_path / name, noisy_clip(2))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr("loraedit.video.writing.save_png", fail)
    with pytest.raises(InputError, match="No space left on device"):
        video.write_clip(tmp_path / name, noisy_clip(3))
    assert listing(tmp_path) == [name] and len(video.read_clip(tmp_path / name)) == 2


def test_writing_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.mkv").symlink_to(tmp_path / "clip.mkv")
    video.write_clip(tmp_path / "link.mkv", noisy_clip())
    assert listing(tmp_path) == ["clip.mkv", "link.mkv"] and (tmp_path / "link.mkv").is_symlink()


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    video.write_clip(tmp_path / "clip.mkv", noisy_clip())
    assert (tmp_path / "clip.mkv").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("name", ["a.avi", "a.webm", "a.gif", "a.png", "a.JPG"])
def test_other_kinds_of_video_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.mp4, \.mov or \.mkv"):
        video.check_writable(tmp_path / name)
    with pytest.raises(InputError, match=r"\.mp4, \.mov or \.mkv"):
        video.write_clip(tmp_path / name, noisy_clip())


def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path) -> None:
    save_png(tmp_path / "00000.png")
    save_png(tmp_path / "holiday.png")
    with pytest.raises(InputError, match=r"such as holiday\.png"):
        video.write_clip(tmp_path, noisy_clip())
    assert listing(tmp_path) == ["00000.png", "holiday.png"]


def test_an_empty_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 frames"):
        video.write_clip(tmp_path / "clip.mkv", noisy_clip(0))
    assert listing(tmp_path) == []
