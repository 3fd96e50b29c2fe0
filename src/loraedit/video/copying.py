"""Copies sound, subtitles, chapters and titles of a file into another one, packet by packet."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from loraedit.types import Origin
from loraedit.video.decoding import METADATA_ERRORS
from loraedit.video.facts import only
from loraedit.video.formats import Container

__all__ = ["Extras", "Timed", "open_extras"]

Timed: TypeAlias = "tuple[float, Packet[Stream]]"  # seconds, and the packet to write at that time

_WORDS = {"audio": "sound", "subtitle": "subtitles", "attachment": "attachment"}
_FEW_PLAYERS = {("mp4", "vorbis"), ("mov", "vorbis")}  # FFmpeg writes it, but hardly any player plays it
_CHANNELS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_OF_THE_FILE = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration"})
_OF_A_STREAM = frozenset({"language", "title", "comment", "timecode"})


class Extras:
    """Copies everything except the picture from an open file into one container.

    Attributes:
        notes: one sentence for each thing that could not be copied; complete after :meth:`close`.
    """

    def __init__(self, source: InputContainer, origin: Origin, container: Container) -> None:
        self.notes = _left_behind(source, origin.path.name)
        self._source, self._name, self._start, self._end = source, origin.path.name, origin.start, origin.end
        wanted = [stream for stream in source.streams if stream.type in _WORDS]
        self._streams = [stream for stream in wanted if self._fits(stream, origin.path, container)]
        self._targets: dict[int, Stream] = {}
        self._damaged: dict[str, int] = {}

    def declare(self, output: OutputContainer, picture: Stream) -> None:
        """Adds the streams beside the picture to an output file, and sets its titles and chapters."""
        output.metadata.update(_without(self._source.metadata, _OF_THE_FILE))
        for shown in self._source.streams.video[:1]:
            picture.metadata.update(_titles(shown))
        for stream in self._streams:
            target = _add(output, stream)
            target.disposition = stream.disposition
            if stream.type != "attachment":  # the template has set its file name
                target.metadata.update(_titles(stream))
            self._targets[stream.index] = target
        chapters = self._source.chapters()
        for chapter in chapters:
            shift = _ticks(self._start, chapter["time_base"])
            chapter["start"], chapter["end"] = chapter["start"] - shift, chapter["end"] - shift
            if self._end is not None:
                length = _ticks(self._end - self._start, chapter["time_base"])
                chapter["start"], chapter["end"] = max(chapter["start"], 0), min(chapter["end"], length)
        output.set_chapters([chapter for chapter in chapters if chapter["start"] < chapter["end"]])

    def packets(self) -> Iterator[Timed]:
        """Yields all packets, ready to be written. Skips damaged packets, and stops at the first read error."""
        latest: dict[int, int] = {}
        streams = [stream for stream in self._streams if stream.type != "attachment"]
        only(self._source, *streams)
        try:
            for packet in self._source.demux(streams) if streams else ():
                if packet.size == 0 and packet.dts is None:
                    continue  # the end of a stream
                time = packet.dts if packet.dts is not None else packet.pts
                index = packet.stream.index
                if time is not None and not self._holds(time * packet.time_base):
                    continue
                if packet.is_corrupt or time is None or time < latest.get(index, time):
                    self._leave_out(packet)
                    continue
                latest[index] = time
                yield self._ready(packet, time)
        except av.FFmpegError as error:
            self.notes.append(f"{self._name} is damaged ({error.strerror}); its sound could be copied only in part.")

    def mux(self, output: OutputContainer, packet: Packet[Stream]) -> None:
        """Writes one of the packets, or leaves it out if the container refuses it."""
        try:
            output.mux(packet)
        except av.FFmpegError as error:
            if error.errno != errno.EINVAL:  # such as a full disk
                raise
            self._leave_out(packet)

    def close(self) -> None:
        """Notes how many packets were left out; call it after the last packet."""
        for kind, count in self._damaged.items():
            self.notes.append(f"{count} damaged packets of the {_WORDS[kind]} of {self._name} were left out.")

    def _holds(self, seconds: Fraction) -> bool:
        """Returns whether a packet at this time belongs to the frames."""
        return self._end is None or self._start <= seconds < self._end

    def _leave_out(self, packet: Packet[Stream]) -> None:
        self._damaged[packet.stream.type] = self._damaged.get(packet.stream.type, 0) + 1

    def _ready(self, packet: Packet[Stream], time: int) -> Timed:
        shift = _ticks(self._start, packet.time_base)
        packet.dts = time - shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        packet.stream = self._targets[packet.stream.index]
        return float(packet.dts * packet.time_base), packet

    def _fits(self, stream: Stream, path: Path, container: Container) -> bool:
        """Returns whether the container can hold a stream; adds a note if it cannot."""
        codec = getattr(stream.codec_context, "name", "")  # an attachment has no codec
        if (container.muxer, codec) not in _FEW_PLAYERS and _trial(path, stream.index, container.muxer):
            return True
        where = "" if container.muxer == "matroska" else " A .mkv output takes more formats."
        what = f"{codec} {_WORDS[stream.type]}".strip()
        self.notes.append(f"The {what} of {self._name} could not be copied into {container.suffix}.{where}")
        return False


@contextmanager
def open_extras(origin: Origin, container: Container) -> Iterator[Extras]:
    """Opens the extras of the file that a clip came from."""
    with av.open(str(origin.path), metadata_errors=METADATA_ERRORS) as source:
        yield Extras(source, origin, container)


def _left_behind(source: InputContainer, name: str) -> list[str]:
    """Returns notes on streams that are not copied. Timecode and chapters are written as metadata."""
    left = ["cover or second picture" for _ in source.streams.video[1:]]
    if not source.chapters():
        left += ["data track" for stream in source.streams.data if "timecode" not in stream.metadata]
    return [f"The {what} of {name} is not copied." for what in dict.fromkeys(left)]


def _trial(path: Path, index: int, muxer: str) -> bool:
    """Returns whether FFmpeg can write a file with the first packet of one stream alone."""
    try:
        with (
            av.open(str(path), metadata_errors=METADATA_ERRORS) as source,
            av.open(io.BytesIO(), "w", format=muxer) as output,
        ):
            target = _add(output, source.streams[index])
            output.start_encoding()
            for packet in source.demux(source.streams[index]) if target.type != "attachment" else ():
                if packet.dts is not None:
                    packet.stream = target
                    output.mux(packet)
                    break
    except (av.FFmpegError, ValueError):
        return False
    return True


def _add(output: OutputContainer, stream: Stream) -> Stream:
    """Adds a stream of the same kind to an output file; unnamed channels get the usual names, which .mp4 requires."""
    target = output.add_stream_from_template(stream)
    if isinstance(target, AudioStream) and target.codec_context.layout.name.endswith(" channels"):
        count = target.codec_context.layout.nb_channels
        target.codec_context.layout = _CHANNELS.get(count, target.codec_context.layout)
    return target


def _titles(stream: Stream) -> dict[str, str]:
    return {key: value for key, value in stream.metadata.items() if key.lower() in _OF_A_STREAM}


def _without(metadata: dict[str, str], keys: frozenset[str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.lower() not in keys}


def _ticks(seconds: Fraction, time_base: Fraction | None) -> int:
    return round(seconds / time_base) if time_base else 0
