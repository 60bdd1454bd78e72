"""The inputs of a job: one `Source` per clip or image, listed from the layouts in which the data sets come."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import quote_from_bytes

from pipeline.settings import UserError
from pipeline.shards.tars import tar_entries
from pipeline.storage import Storage, open_storage

Media = Literal["clips", "images", "frames"]
CLIP_EXTENSIONS = frozenset(
    [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"]
)
IMAGE_EXTENSIONS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])
LIST_EXTENSIONS = frozenset([".list", ".lst", ".txt", ".tsv"])
CLASS_NAMES = "labels.txt"
"""Beside class folders: rows `FOLDER,NAME` that say what each class is called."""
NO_CLASS = ""
"""Class of inputs that have none; their label is -1."""

Entry = tuple[str, tuple[int, int] | None]
"""Path of a file and, in a tar, its span."""


@dataclass(frozen=True)
class Source:
    """One input: its `path` below the data root (a folder for `frames`), its sample key, its class and its kind.

    With a `span` (first byte, number of bytes) it lies within the tar that the job reads, and `path` names it there.
    """

    path: str
    key: str
    class_name: str
    media: Media
    span: tuple[int, int] | None = None


@dataclass
class Listing:
    """The inputs of a job; `sources` streams them once, in any order, and counts the files that are none."""

    root: Storage
    tar: str | None
    """Name below the root of the tar in which all inputs lie."""
    sources: Iterator[Source]
    ignored: Counter[str] = field(default_factory=Counter)
    """What is not taken, by kind: files with other extensions, rows of other splits."""
    names: dict[str, str] = field(default_factory=dict)
    """What a class is called, where that is not the name of its folder."""


def sample_key(name: str) -> str:
    """A file's name without extension, in the characters a WebDataset key may have (no dot, no separator).

    Other bytes are percent-encoded, so different names keep different keys.
    """
    return quote_from_bytes(os.fsencode(name), safe="").replace(".", "%2E").replace("~", "%7E")


def media_of(path: str) -> Media | None:
    """What a file's extension says it is."""
    extension = PurePosixPath(path).suffix.lower()
    return "clips" if extension in CLIP_EXTENSIONS else "images" if extension in IMAGE_EXTENSIONS else None


def class_of(path: str) -> str:
    """The first folder of a path."""
    first, slash, _ = path.partition("/")
    return first if slash else NO_CLASS


def _file(path: str, media: Media, class_name: str, span: tuple[int, int] | None = None) -> Source:
    return Source(path, sample_key(PurePosixPath(path).stem), class_name, media, span)


def _kind_of_file(path: str) -> str:
    """How files that are not taken are counted."""
    name = PurePosixPath(path)
    return "hidden files" if name.name.startswith(".") else name.suffix.lower()[:16] or "files without extension"


def _files(entries: Iterable[Entry], media: Media | None, ignored: Counter[str]) -> Iterator[Source]:
    """Files with a known extension; the first folder is the class, whatever the depth."""
    for path, span in entries:
        kind = media_of(path)
        if kind and media in (None, kind) and not PurePosixPath(path).name.startswith("."):
            yield _file(path, kind, class_of(path), span)
        else:
            ignored[_kind_of_file(path)] += 1


def _frame_folders(paths: Iterable[str], ignored: Counter[str]) -> Iterator[Source]:
    """Each folder that directly holds images is one clip whose frames are those images."""
    last = None
    for path in paths:
        folder = path.rpartition("/")[0]
        if media_of(path) != "images" or not folder:
            ignored[_kind_of_file(path)] += 1
        elif folder != last:  # the files of a folder come one after the other
            yield Source(folder, sample_key(PurePosixPath(folder).name), class_of(folder), "frames")
            last = folder


def _listed(lines: Iterable[str], place: str, media: Media | None, ignored: Counter[str]) -> Iterator[Source]:
    """Lines of `PATH` or `PATH<tab>CLASS`; with `media` given, whatever their extensions.

    Without a class it is the first folder of a relative path, and the folder that holds the file of an absolute one.
    """
    for number, line in enumerate(lines, start=1):
        path, _, class_name = line.rstrip("\r\n").partition("\t")
        kind = media or media_of(path)
        if "\t" in class_name:
            raise UserError(f"{place}, line {number}: more than two columns; allowed are PATH or PATH<tab>CLASS")
        if kind and path.strip():
            folder = PurePosixPath(path).parent.name if path.startswith("/") else class_of(path)
            yield _file(path, kind, class_name.strip() or folder)
        elif media_of(re.split("[ ,;]", path)[0]):
            raise UserError(f"{place}, line {number}: {path!r} has no tab; allowed are PATH or PATH<tab>CLASS")
        elif path.strip():
            ignored[_kind_of_file(path)] += 1


def _annotated(
    lines: Iterable[str], place: str, files: dict[str, str], split: str, ignored: Counter[str]
) -> Iterator[Source]:
    """Rows of a Kinetics annotation file; `files` gives the path of a clip by its file name without extension.

    Clips that are listed but not there stay inputs, so that they end as rejects.
    """
    table = csv.DictReader(lines, strict=True)
    named = set()
    try:
        if missing := {"youtube_id", "time_start", "time_end"} - set(table.fieldnames or ()):
            raise UserError(
                f"{place} has no column {', '.join(sorted(missing))}; a Kinetics annotation file has the columns "
                "label,youtube_id,time_start,time_end,split"
            )
        for row in table:
            if row.get("split") not in (None, "", split):
                ignored[f"rows of split {row['split']}"] += 1
            else:
                start, end = (int(float(row[column])) for column in ("time_start", "time_end"))
                stem = f"{row['youtube_id']}_{start:06d}_{end:06d}"
                named.add(stem)
                yield _file(files.get(stem, f"{stem}.mp4"), "clips", row.get("label") or NO_CLASS)
        if unnamed := len(files.keys() - named):
            ignored["clips that the annotations do not name"] = unnamed
    except csv.Error as error:
        raise UserError(f"{place}, line {table.line_num}: {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{place}, line {table.line_num}: time_start and time_end must be seconds") from error


def _lines(storage: Storage, name: str) -> Iterator[str]:
    with storage.open(name) as stream:
        yield from io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _class_names(folders: Iterable[Storage]) -> dict[str, str]:
    """`FOLDER,NAME` rows of the first labels.txt found; {} without one."""
    for storage in folders:
        if storage.size(CLASS_NAMES) is not None:
            rows = csv.reader(_lines(storage, CLASS_NAMES), strict=True)  # or an open quote would take in what follows
            try:
                return {row[0].strip(): row[1].strip() for row in rows if len(row) > 1}
            except csv.Error as error:
                raise UserError(
                    f"{storage}/{CLASS_NAMES}, line {rows.line_num}: {error}; rows are FOLDER,NAME with quotes in pairs"
                ) from error
    return {}


def data_root(data: str) -> tuple[Storage, str | None]:
    """The folder that paths of sources are relative to, and the name of the tar in it that `data` is, if it is one.

    Raises:
        UserError: `data` does not exist, or is a file of no kind that can be read.
    """
    storage = open_storage(data)
    folder, _, name = storage.place.rpartition("/")
    parent = open_storage(folder or "/")
    if parent.size(name) is None:
        if storage.is_missing():
            raise UserError(f"the data folder {data} does not exist or is not a folder")
        return storage, None
    extension = PurePosixPath(name).suffix.lower()
    if extension not in LIST_EXTENSIONS | {".tar"}:
        raise UserError(
            f"{data} is neither a folder, nor an uncompressed .tar, nor a text file of paths "
            f"({', '.join(sorted(LIST_EXTENSIONS))})"
        )
    return parent, name if extension == ".tar" else None


def _split_file(place: str) -> tuple[Storage, str]:
    folder, _, name = open_storage(place).place.rpartition("/")
    return open_storage(folder or "/"), name


def list_sources(
    data: str, media: Media | None = None, annotations: str | None = None, split: str = "train"
) -> Listing:
    """List the inputs at `data`: a folder, an uncompressed tar (also of tars), or a text file of paths.

    Args:
        data: path or address.
        media: what to take; None takes every clip and image. `frames` takes folders of images as clips.
        annotations: Kinetics annotation CSV that names clips and their classes; `data` is then the folder of clips.
        split: rows of `annotations` to take.

    Raises:
        UserError: `data` is none of these; a list or CSV is malformed (raised while `sources` is read).
    """
    root, tar = data_root(data)
    listing = Listing(root, tar, iter(()))
    if root.place != open_storage(data).place:
        if annotations is not None or media == "frames":
            raise UserError(f"{data} is a file; annotations and media = frames need a folder")
        if tar is not None:
            listing.sources = _files(tar_entries(root, tar), media, listing.ignored)
        else:
            listing.sources = _listed(_lines(*_split_file(data)), data, media, listing.ignored)
        return listing
    listing.names = _class_names((root, _split_file(data)[0]))
    if annotations is not None:
        files = {PurePosixPath(path).stem: path for path in root.walk() if media_of(path) == "clips"}
        listing.sources = _annotated(_lines(*_split_file(annotations)), annotations, files, split, listing.ignored)
    elif media == "frames":
        listing.sources = _frame_folders(root.walk(), listing.ignored)
    else:
        listing.sources = _files(((path, None) for path in root.walk()), media, listing.ignored)
    return listing
