"""Any clip -> the statement of its container."""

from typing import IO

from pipeline.shards.containers.asf import read_asf
from pipeline.shards.containers.completeness import Statement
from pipeline.shards.containers.flv import read_flv
from pipeline.shards.containers.isobmff import read_isobmff
from pipeline.shards.containers.matroska import read_matroska
from pipeline.shards.containers.riff import read_riff

_READERS = (read_isobmff, read_matroska, read_riff, read_flv, read_asf)


def read_statement(file: IO[bytes]) -> Statement:
    """Read the statement of an open clip; empty if its container is damaged or unknown, which ffmpeg decides."""
    for read in _READERS:
        file.seek(0)
        if (statement := read(file)) is not None:
            return statement
    return Statement()
