"""Extra processing of some clips: deinterlacing, and tone mapping of HDR.

ffmpeg's filters cannot depend on the clip, so each clip is first decoded without it. If ffmpeg's log then shows that
the clip is interlaced or HDR, decoding starts over with the filters that it needs.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

_HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
"""Transfer characteristics of HDR, by ffmpeg's names."""
_LEVEL = rb"\[info\] "
_STREAM = re.compile(_LEVEL + rb"  Stream #0:(\d+)(?:\[0x([0-9a-f]+)\])?\S*: Video: ")
_MAPPING = re.compile(_LEVEL + rb"  Stream #0:(\d+) -> #0:0 ")
_ENCODED = re.compile(_LEVEL + rb"  Stream #0:0\S*: Video: mjpeg[^,]*, [^(,]*\([^)]*?, [^/)]+/([^/)]+)/([^,)]+)[,)]")
_INTERLACED = re.compile(rb"\[Eval @ [^\]]*\] " + _LEVEL)
NOTICE_INTERLACED = "select='if(eq(interlace_type,PROGRESSIVE),1,1+0*print(n,32))'"
"""Filter that passes all pictures and logs the number of each interlaced one."""
_HDR_WHITE_NITS = 203
"""Diffuse white of HDR (ITU-R BT.2408); tones below a third of it do not change."""
_HDR_PEAK = 10
"""Brightest tone as a multiple of that white; brighter tones become white."""


@dataclass(frozen=True)
class Treatment:
    """Processing of a clip beyond scaling."""

    deinterlace: bool = False
    transfer: str = ""
    """Transfer characteristic of an HDR clip, by ffmpeg's name."""
    primaries: str = ""
    """Its color primaries."""

    @property
    def first_filters(self) -> tuple[str, ...]:
        """Filters of all pictures at full size."""
        return ("bwdif=mode=send_frame:deint=interlaced",) if self.deinterlace else (NOTICE_INTERLACED,)

    @property
    def tone_filters(self) -> tuple[str, ...]:
        """Filters from scaled HDR pictures to ITU-R BT.709."""
        if not self.transfer:
            return ()
        return (
            f"setparams=color_primaries={self.primaries}:color_trc={self.transfer}",
            f"zscale=transfer=linear:npl={_HDR_WHITE_NITS}",
            "format=gbrpf32le",
            "zscale=primaries=bt709",
            f"tonemap=mobius:desat=0:peak={_HDR_PEAK}",
            "zscale=transfer=bt709:matrix=bt709:range=limited",
            "format=yuv444p12le",
        )

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of the sample's record; empty for ordinary clips."""
        deinterlaced = {"deinterlaced": True} if self.deinterlace else {}
        return deinterlaced | ({"color": f"tone-mapped from {self.transfer}"} if self.transfer else {})


PLAIN = Treatment()
"""The treatment of ordinary clips."""


class NeedsTreatment(Exception):  # noqa: N818 - not a fault: decoding starts over
    """The clip needs another treatment than the current one."""

    def __init__(self, treatment: Treatment) -> None:
        super().__init__(str(treatment))
        self.treatment = treatment


@dataclass
class Observer:
    """Reads in ffmpeg's log which video stream it decodes, and which treatment that needs."""

    treatment: Treatment
    _track_ids: dict[bytes, int] = field(default_factory=dict)
    _stream: bytes = b""

    def __call__(self, line: bytes) -> None:
        """Read one line.

        Raises:
            NeedsTreatment: the clip needs another treatment.
        """
        if _INTERLACED.match(line):
            raise NeedsTreatment(replace(self.treatment, deinterlace=True))
        if stream := _STREAM.match(line):
            self._track_ids.setdefault(stream[1], int(stream[2], 16) if stream[2] else int(stream[1]))
        elif mapping := _MAPPING.match(line):
            self._stream = mapping[1]
        if (encoded := _ENCODED.match(line)) and (transfer := encoded[2].decode(errors="replace")) in _HDR:
            primaries = encoded[1].decode(errors="replace")
            primaries = "bt2020" if primaries in ("unknown", "reserved") else primaries
            raise NeedsTreatment(replace(self.treatment, transfer=transfer, primaries=primaries))

    @property
    def track_id(self) -> int | None:
        """ID of the decoded track in the container, or its number if it has no ID; None if unknown."""
        return self._track_ids.get(self._stream)
