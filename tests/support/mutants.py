"""Makes hostile files from valid ones: truncated, with flipped bits, or with false fields; reproducible by seed."""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "HOSTILE_PROMPT",
    "MUTATIONS",
    "hostile_json",
    "hostile_tensors",
    "huge_png",
    "lying",
    "mutate",
    "pickled",
    "zip_slip",
]

Rng = np.random.Generator
HOSTILE_PROMPT = """</p><img src="http://127.0.0.1:9/a.png"><script>document.title = 'run'</script>"""
FIELDS = {
    "mp4": (b"mvhd", b"tkhd", b"mdhd", b"elst", b"stts", b"ctts", b"stsz", b"stsc", b"stco", b"stss", b"avc1", b"mdat"),
    "mkv": (b"\x44\x89", b"\xb0", b"\xba", b"\x2a\xd7\xb1", b"\x23\xe3\x83", b"\x1f\x43\xb6\x75", b"\xae", b"\xe7"),
    "webm": (b"\x44\x89", b"\xb0", b"\xba", b"\x2a\xd7\xb1", b"\x23\xe3\x83", b"\x1f\x43\xb6\x75", b"\xe7", b"\xa3"),
    "avi": (b"RIFF", b"avih", b"strh", b"strf", b"movi", b"idx1", b"00dc"),
    "png": (b"IHDR", b"IDAT", b"PLTE", b"acTL", b"fcTL"),
    "jpg": (b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xdb", b"\xff\xe1", b"\xff\xda"),
    "webp": (b"VP8X", b"VP8 ", b"VP8L", b"ANIM", b"ANMF", b"RIFF"),
    "gif": (b"GIF89a", b"\x21\xf9", b"\x2c", b"\x21\xff"),
    "tif": (b"II*\0", b"\x00\x01", b"\x01\x01", b"\x02\x01", b"\x11\x01", b"\x17\x01", b"\x03\x01"),
    "bmp": (b"BM",),
}
"""The bytes before numbers that decide about memory, by kind of file."""
NUMBERS = (
    b"\0\0", b"\0\0\0\0", b"\1\0\0\0", b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f",
    b"\0\0\0\1", b"\0\0\xff\xff", b"\xff\x3f\xff\x3f", struct.pack(">d", math.nan), struct.pack(">d", math.inf),
    struct.pack("<d", -1e308), struct.pack(">Q", 2**63), struct.pack("<Q", 2**62),
)  # fmt: skip
"""Zero, one, huge and negative numbers, not a number, and infinity."""
VALUES = (None, -1, 0, 1e308, 2**70, "", "x" * 5000, [], {}, [[[]]], True, "../../etc/passwd", "\0", {"a": {"a": 1}})


def mutate(content: bytes, suffix: str, rng: Rng) -> bytes:
    """Returns a file with one or several faults."""
    kind = sorted(MUTATIONS)[int(rng.integers(len(MUTATIONS)))]
    return MUTATIONS[kind](content, suffix.removeprefix("."), rng)


def _cut(content: bytes, _: str, rng: Rng) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def _flip(content: bytes, _: str, rng: Rng) -> bytes:
    flipped = bytearray(content)
    for place in rng.integers(len(content), size=int(rng.integers(1, 20))) if content else ():
        flipped[place] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def _flip_head(content: bytes, suffix: str, rng: Rng) -> bytes:
    return _flip(content[:200], suffix, rng) + content[200:]


def lying(content: bytes, suffix: str, rng: Rng) -> bytes:
    """Replaces numbers in the header by false ones, and fixes the checksums; leaves an empty file empty."""
    if not content:
        return content
    marks = [mark for mark in FIELDS.get(suffix, ()) if mark in content] or [content[:4]]
    lies = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        mark = marks[int(rng.integers(len(marks)))]
        places = [place for place in range(len(content)) if content.startswith(mark, place)][:50]
        at = places[int(rng.integers(len(places)))] + len(mark) + int(rng.integers(40))
        number = NUMBERS[int(rng.integers(len(NUMBERS)))]
        lies[at : at + len(number)] = number
    return _with_checksums(bytes(lies)) if suffix == "png" else bytes(lies)


def _doubled(content: bytes, _: str, rng: Rng) -> bytes:
    at, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 2000))
    return content[:at] + content[max(0, at - length) :]


def _spoilt(content: bytes, _: str, rng: Rng) -> bytes:
    at, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 400))
    return content[:at] + rng.bytes(length) + content[at + length :]


def _noise(_: bytes, __: str, rng: Rng) -> bytes:
    return rng.bytes(int(rng.integers(5000)))


MUTATIONS: dict[str, Callable[[bytes, str, Rng], bytes]] = {
    "cut": _cut, "flip": _flip, "flip head": _flip_head, "lie": lying, "double": _doubled, "spoil": _spoilt,
    "noise": _noise,
}  # fmt: skip


def _with_checksums(content: bytes) -> bytes:
    """Gives every chunk of a PNG a valid checksum."""
    parts, at = [content[:8]], 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        parts.append(content[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big"))
        at += 12 + length
    return b"".join(parts)


def huge_png(width: int, height: int) -> bytes:
    """Returns a small, valid PNG whose header states this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# ---- safetensors, JSON, and what is neither --------------------------------------------------------------------------


def hostile_tensors(content: bytes, rng: Rng) -> bytes:
    """Returns a safetensors file with a false header: its length, or a tensor's place, shape or type."""
    length = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    if rng.random() < 0.15:
        return int(rng.choice([0, 1, 2**31, 2**62, length + 1, length - 1])).to_bytes(8, "little") + content[8:]
    names = [name for name in header if name != "__metadata__"]
    name = names[int(rng.integers(len(names)))]
    start, stop = header[name]["data_offsets"]
    lies: list[tuple[str, Any]] = [
        ("data_offsets", [start, stop + 4]), ("data_offsets", [stop, start]), ("data_offsets", [0, 2**62]),
        ("data_offsets", [start + 1, stop + 1]), ("data_offsets", [-4, stop]), ("data_offsets", [start]),
        ("shape", [2**40, 2**40]), ("shape", [0]), ("shape", [-1, 4]), ("shape", []), ("shape", "x"),
        ("shape", [1] * 300), ("dtype", "F64"), ("dtype", "I8"), ("dtype", "OBJECT"), ("dtype", None),
    ]  # fmt: skip
    field, value = lies[int(rng.integers(len(lies)))]
    choice = int(rng.integers(5))
    if choice == 0:
        header[f"{name}\n{'x' * int(rng.integers(300))}"] = header.pop(name)
    elif choice == 1:
        header["__metadata__"] = VALUES[int(rng.integers(len(VALUES)))]
    else:
        header[name] = {**header[name], field: value}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


def hostile_json(content: bytes, rng: Rng) -> bytes:
    """Returns a JSON file with one false value, or with other content."""
    if rng.random() < 0.3:
        others = (
            b"",
            b"[]",
            b"null",
            b"{",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"\xff\xfe",
            b"NaN",
            b"1e999",
            b"\0" * 50,
        )
        return others[int(rng.integers(len(others)))]
    value = json.loads(content)
    holder, keys = value, list(value)
    while True:
        key = keys[int(rng.integers(len(keys)))]
        inner = holder[key]
        deeper = list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
        if not deeper or rng.random() < 0.3:
            break
        holder, keys = inner, deeper
    choice = int(rng.integers(4))
    if choice == 0:
        del holder[key]
    elif choice == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = 1
    else:
        holder[key] = VALUES[int(rng.integers(len(VALUES)))]
    return json.dumps(value).encode()


class _Trap:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os._exit, (77,)


def pickled(protocol: int = 2) -> bytes:
    """Returns a pickle that ends the process that opens it, with exit code 77."""
    return pickle.dumps(_Trap(), protocol=protocol)


def zip_slip(name: str = "../../escaped") -> bytes:
    """Returns an archive with a pickle, whose members point outside the folder of extraction."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, "out")
        file.writestr("archive/data.pkl", pickled())
    return archive.getvalue()
