"""Any clip -> what its container states."""

from typing import IO

from pipeline.shards.containers.asf import read_asf
from pipeline.shards.containers.completeness import Statement
from pipeline.shards.containers.flv import read_flv
from pipeline.shards.containers.isobmff import read_isobmff
from pipeline.shards.containers.matroska import read_matroska
from pipeline.shards.containers.riff import read_riff

_READERS = (read_isobmff, read_matroska, read_riff, read_flv, read_asf)


def read_statement(file: IO[bytes]) -> Statement:
    """What the container of an open clip states; nothing if it is damaged or of another kind: ffmpeg judges that."""
    for read in _READERS:
        file.seek(0)
        if (statement := read(file)) is not None:
            return statement
    return Statement()
