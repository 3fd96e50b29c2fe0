"""Reads clips and images of any kind, and writes three containers and folders of PNGs.

Frames are RGB and upright. They are read and written one by one, with the bit depth and the opacity of the file. FFV1
and PNG files written by loraedit read back bit for bit; the other codecs are for watching. Timing, colour tags, sound
and titles of a video file are copied to the video that is made from it.
Writing is atomic: a file or folder appears complete under its final name, or not at all.
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
