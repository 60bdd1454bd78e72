"""What some clips need so that their frames look like those of all others: deinterlacing, mapping of HDR tones.

ffmpeg's filters cannot depend on the clip, so each clip is first decoded plainly, and what ffmpeg says of it meanwhile
decides: ordinary clips are done then, others begin anew with the filters that they need.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

_HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
"""Transfer characteristics whose tones are mapped, by ffmpeg's names."""
_LEVEL = rb"\[info\] "
_STREAM = re.compile(_LEVEL + rb"  Stream #0:(\d+)(?:\[0x([0-9a-f]+)\])?\S*: Video: ")
_MAPPING = re.compile(_LEVEL + rb"  Stream #0:(\d+) -> #0:0 ")
_ENCODED = re.compile(_LEVEL + rb"  Stream #0:0\S*: Video: mjpeg[^,]*, [^(,]*\([^)]*?, [^/)]+/([^/)]+)/([^,)]+)[,)]")
_INTERLACED = re.compile(rb"\[Eval @ [^\]]*\] " + _LEVEL)
NOTICE_INTERLACED = "select='if(eq(interlace_type,PROGRESSIVE),1,1+0*print(n,32))'"
"""Filter that passes everything on and says the number of each interlaced picture."""
_HDR_WHITE_NITS = 203
"""Diffuse white of HDR (ITU-R BT.2408); below a third of it tones stay as they are."""
_HDR_PEAK = 10
"""Brightest tone as a multiple of that white; what is brighter becomes white."""


@dataclass(frozen=True)
class Treatment:
    """What a clip needs beyond scaling."""

    deinterlace: bool = False
    transfer: str = ""
    """Transfer characteristic of an HDR clip, by ffmpeg's name."""
    primaries: str = ""
    """Its color primaries."""

    @property
    def first_filters(self) -> tuple[str, ...]:
        """Filters of whole pictures, before any is left out."""
        return ("bwdif=mode=send_frame:deint=interlaced",) if self.deinterlace else (NOTICE_INTERLACED,)

    @property
    def tone_filters(self) -> tuple[str, ...]:
        """Filters that make pictures in ITU-R BT.709 from small HDR ones."""
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
        """What the record of a sample says of it; nothing for ordinary clips."""
        deinterlaced = {"deinterlaced": True} if self.deinterlace else {}
        return deinterlaced | ({"color": f"tone-mapped from {self.transfer}"} if self.transfer else {})


PLAIN = Treatment()
"""That of ordinary clips."""


class Untreated(Exception):  # noqa: N818 - not a fault: the clip begins anew
    """The clip needs another treatment than the one that it is decoded with."""

    def __init__(self, treatment: Treatment) -> None:
        super().__init__(str(treatment))
        self.treatment = treatment


@dataclass
class Observer:
    """Learns from what ffmpeg says which video stream it decodes and what that needs."""

    treatment: Treatment
    _track_ids: dict[bytes, int] = field(default_factory=dict)
    _stream: bytes = b""

    def __call__(self, line: bytes) -> None:
        """Take one line.

        Raises:
            Untreated: the clip needs more than its treatment.
        """
        if _INTERLACED.match(line):
            raise Untreated(replace(self.treatment, deinterlace=True))
        if stream := _STREAM.match(line):
            self._track_ids.setdefault(stream[1], int(stream[2], 16) if stream[2] else int(stream[1]))
        elif mapping := _MAPPING.match(line):
            self._stream = mapping[1]
        if (encoded := _ENCODED.match(line)) and (transfer := encoded[2].decode(errors="replace")) in _HDR:
            primaries = encoded[1].decode(errors="replace")
            primaries = "bt2020" if primaries in ("unknown", "reserved") else primaries
            raise Untreated(replace(self.treatment, transfer=transfer, primaries=primaries))

    @property
    def track_id(self) -> int | None:
        """ID that the container gives the decoded track, or its number where it gives none; None if unknown."""
        return self._track_ids.get(self._stream)
