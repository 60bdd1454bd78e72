"""MP4, MOV, 3GP (ISO/IEC 14496-12), fragmented or not."""

import os
from typing import IO

from pipeline.shards.containers.boxes import Box, TooManyBoxes, boxes
from pipeline.shards.containers.completeness import Statement
from pipeline.shards.containers.fragments import (
    Fragments,
    fragment_extents,
    fragment_hole_s,
    fragment_pictures_s,
    read_fragment,
    read_random_access,
    read_segment_index,
)
from pipeline.shards.containers.tracks import Movie, pictures_s, read_movie

_FIRST = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot", b"sidx", b"uuid"}
"""Kinds of a file's first box."""


def _fragments(file: IO[bytes], top: list[Box], movie: Movie) -> Fragments:
    fragments = Fragments()
    for box in top:
        if box.kind == b"moof":
            read_fragment(file, box, movie, fragments)
        elif box.kind == b"sidx":
            read_segment_index(file, box, fragments)
        elif box.kind == b"mfra":
            read_random_access(file, box, fragments)
    return fragments


def _read(file: IO[bytes]) -> Statement:
    top = list(boxes(file, 0, file.seek(0, os.SEEK_END)))
    moov = next((box for box in top if box.kind == b"moov"), None)
    if moov is None:
        return Statement()
    movie = read_movie(file, moov)
    fragments = _fragments(file, top, movie)
    pictures = {
        track.id: pictures_s(track, movie.ticks_per_s)
        if not fragments.runs[track.id]
        else fragment_pictures_s(fragments.runs[track.id], track)
        for track in movie.tracks
        if track.is_video
    }
    return Statement(
        end=max((box.end for box in top if box.kind in (b"mdat", b"moof")), default=None),
        extents=fragment_extents(fragments, movie),
        hole_s=fragment_hole_s(fragments, movie),
        pictures_s={track: seconds for track, seconds in pictures.items() if seconds is not None},
    )


def read_isobmff(file: IO[bytes]) -> Statement | None:
    """Read the statement of an ISO base media file; None for other files."""
    if file.read(8)[4:] not in _FIRST:
        return None
    try:
        return _read(file)
    except TooManyBoxes:
        return Statement()
