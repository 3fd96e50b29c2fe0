"""Clips and images on disk: read anything, write three containers or a folder of PNGs.

Frames in memory are RGB, 8 bits, upright. What loraedit writes as FFV1 or PNG reads back bit for bit; the other codecs
are for watching. What comes out of a video file goes back into one with its timing, colour tags, sound and titles.
Writing is atomic: a file or folder appears whole, under its final name, or not at all.
"""

from loraedit.video.formats import check_encodable
from loraedit.video.reading import DEFAULT_FPS, IMAGE_SUFFIXES, read_clip, read_image
from loraedit.video.writing import check_writable, write_clip, write_image

__all__ = [
    "DEFAULT_FPS",
    "IMAGE_SUFFIXES",
    "check_encodable",
    "check_writable",
    "read_clip",
    "read_image",
    "write_clip",
    "write_image",
]
