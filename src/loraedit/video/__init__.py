"""Clips and images on disk: read anything, write three containers or a folder of PNGs.

Frames are RGB, upright, read and written one by one, with the bits and the opacity that the file has. What loraedit
writes as FFV1 or PNG reads back bit for bit; the other codecs are for watching. What comes out of a video file goes
back into one with its timing, colour tags, sound and titles.
Writing is atomic: a file or folder appears whole, under its final name, or not at all.
"""

from loraedit.video.formats import check_encodable
from loraedit.video.images import IMAGE_SUFFIXES, check_image, read_image
from loraedit.video.pixels import to_rgb
from loraedit.video.reading import DEFAULT_FPS, check_footage, open_footage, read_clip
from loraedit.video.writing import check_writable, write_clip, write_footage, write_image, write_part

__all__ = [
    "DEFAULT_FPS",
    "IMAGE_SUFFIXES",
    "check_encodable",
    "check_footage",
    "check_image",
    "check_writable",
    "open_footage",
    "read_clip",
    "read_image",
    "to_rgb",
    "write_clip",
    "write_footage",
    "write_image",
    "write_part",
]
