"""Where a long file is damaged: a second decoding that goes on after errors and only notes where they are."""

import re
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from fractions import Fraction
from typing import IO, NamedTuple

from pipeline.shards.ffmpeg import Deadline, stream_ffmpeg
from pipeline.shards.frames import MAX_MEMORY, clip_name, ffmpeg_input
from pipeline.spec import FrameSettings

REORDERED = 16
"""Most pictures by which a decoder delays its output, or by which a picture may lie from one that refers to it."""
_DECODER = rb"^\[vist#[^\]]*\] (?:\[dec:[^\]]*\] )?"
_DECODED = re.compile(
    _DECODER + rb"\[info\] decoder -> pts:(-?\d+) .* keyframe:(\d) .* time_base:(\d+)/(\d+)", re.DOTALL
)
_READ = re.compile(rb"^\[vist#[^\]]*\] \[info\] demuxer\+ffmpeg -> .*pkt_dts_time:(-?[\d.]+)")
_NOT_DECODED = re.compile(_DECODER + rb"\[(?:warning|error|fatal)\] ")
_NOT_READ = re.compile(rb"^\[in#[^\]]*\] \[(?:warning|error|fatal)\] ")


class Damage(NamedTuple):
    """A damaged stretch: no picture between the two times (in ticks after the first picture) can be trusted."""

    start: int
    end: int | None
    """None: up to the end of the file."""

    def holds(self, time: int) -> bool:
        """Whether the picture on display at a time is in it."""
        return self.start < time and (self.end is None or time < self.end)


@dataclass
class DamageLog:
    """Reads in ffmpeg's log (`-debug_ts`) which pictures were decoded, and after how many of them errors came.

    Messages of one thread are in order. Those of the decoder are compared with its pictures, and those of the demuxer
    with its packets, so the result is the same in every run.
    """

    ticks_per_s: int
    _times: "array[int]" = field(default_factory=lambda: array("q"))
    _keys: bytearray = field(default_factory=bytearray)
    _errors: list[int] = field(default_factory=list)
    """Number of pictures before each error of the decoder."""
    _unread: list[Fraction] = field(default_factory=list)
    """Time of the packet before each error of the demuxer, in seconds."""
    _read_s: Fraction | None = None

    def __call__(self, line: bytes) -> None:
        """Read one line."""
        if decoded := _DECODED.match(line):
            time, key, numerator, denominator = (int(number) for number in decoded.groups())
            self._times.append(round(Fraction(time * numerator * self.ticks_per_s, denominator)))
            self._keys.append(key)
        elif read := _READ.match(line):
            self._read_s = Fraction(read[1].decode())
        elif _NOT_DECODED.match(line):
            self._errors.append(len(self._times))
        elif self._read_s is not None and _NOT_READ.match(line):  # before, ffmpeg looks at parts of the file
            self._unread.append(self._read_s)

    @property
    def last_s(self) -> float:
        """Time of the last picture in seconds; 0 before the first."""
        return self._times[-1] / self.ticks_per_s if self._times else 0.0

    def damage(self) -> list[Damage]:
        """The damaged stretches in order.

        One begins `REORDERED` pictures before an error and ends with the first key picture that comes at least as
        many pictures after the last.
        """
        times = self._times
        ordered = sorted(times)
        unread = (bisect_right(ordered, time_s * self.ticks_per_s) for time_s in self._unread)
        found: list[Damage] = []
        intact = 0  # the picture from which all is well again
        for error in sorted([*self._errors, *unread]):
            last_good = error - REORDERED - 1
            start = times[last_good] - times[0] if last_good >= 0 else -1
            if found and last_good < intact:
                start = found.pop().start
            intact = self._keys.find(1, error + REORDERED)
            found.append(Damage(start, times[intact] - times[0] if intact >= 0 else None))
            if intact < 0:
                break
        return found


def find_damage(file: IO[bytes], settings: FrameSettings, ticks_per_s: int) -> list[Damage]:
    """Decode an open file to its end and return its damaged stretches.

    Raises:
        FfmpegError, FfmpegTimeout: as `stream_ffmpeg`.
    """
    deadline, log = Deadline(settings.deadline_s), DamageLog(ticks_per_s)
    minute = 0

    def watch(line: bytes) -> None:
        nonlocal minute
        log(line)
        if log.last_s // 60 > minute:
            minute = int(log.last_s // 60)
            deadline.put_off()

    def arguments(_: int) -> list[str]:
        source = ffmpeg_input(clip_name(file), settings)
        output = source.output("pipe:", format="null", an=None, sn=None, dn=None, max_error_rate=1, debug_ts=None)
        arguments: list[str] = output.get_args()
        return arguments

    for _ in stream_ffmpeg(arguments, deadline, (file.fileno(),), MAX_MEMORY, watch):
        pass
    return log.damage()
