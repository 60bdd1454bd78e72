"""The inputs of a job: one `Source` per clip or image, listed from a folder, a tar or a text file of paths."""

import csv
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import quote_from_bytes

from pipeline.paths import path_bytes
from pipeline.settings import UserError
from pipeline.shards.lists import (
    AnnotatedClip,
    annotated_clips,
    is_directive,
    refuse_other_formats,
    text_lines,
    unquoted,
)
from pipeline.shards.tars import is_hidden, tar_entries
from pipeline.shards.unpacked import Entry
from pipeline.storage import Storage, open_storage

Media = Literal["clips", "images", "frames"]
CLIP_EXTENSIONS = frozenset(
    [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"]
)
IMAGE_EXTENSIONS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"])
LIST_EXTENSIONS = frozenset([".list", ".lst", ".txt", ".tsv"])
CLASS_NAMES = "labels.txt"
"""File beside or above the class folders with rows `FOLDER,NAME`: the name of each class."""
_PATH_AND_MORE = re.compile(
    rf".*({'|'.join(map(re.escape, sorted(CLIP_EXTENSIONS | IMAGE_EXTENSIONS)))})[ ,;|:\"'\])}}>][^.]*", re.IGNORECASE
)
"""A line with further text after the path of a supported file."""
NO_CLASS = ""
"""Class of inputs that have none; their label is -1."""


@dataclass(frozen=True)
class Source:
    """One input: its `path` below the data root (a folder for `frames`), sample key, class and kind.

    An input in a tar has a `span` (first byte, number of bytes), and `path` is its name in the tar. A `fault` is the
    reason why it cannot be read, such as a link in a tar to a missing file.
    """

    path: str
    key: str
    class_name: str
    media: Media
    span: tuple[int, int] | None = None
    fault: str = ""
    cut: tuple[int, int | None] | None = None
    """Start and end in milliseconds from the beginning of the file, if only a part is meant; None: to its end."""


@dataclass(frozen=True)
class Data:
    """The opened DATA of a job: a folder, a tar or a text file of paths."""

    uri: str
    """As the user gave it."""
    root: Storage
    """Folder that the paths of sources are relative to."""
    file: str | None
    """Name of the tar or text file below the root; None for a folder."""
    location: str
    """Canonical path or URI."""

    @property
    def tar(self) -> str | None:
        """Name of the tar below the root; None for other data."""
        return self.file if self.file is not None and _extension(self.file) == ".tar" else None


@dataclass
class Listing:
    """The inputs of a job; `sources` streams them once, in any order, and counts the files that it skips."""

    uri: str
    """Path or URI of the data, for messages."""
    sources: Iterator[Source]
    ignored: Counter[str] = field(default_factory=Counter)
    """Number of skipped inputs by kind: files with other extensions, rows of other splits."""
    names: dict[str, str] = field(default_factory=dict)
    """Class names that differ from the names of their folders."""


def sample_key(name: str) -> str:
    """A file name without its extension as a WebDataset key (no dot, no separator).

    All other bytes are percent-encoded, so that different names have different keys.
    """
    return quote_from_bytes(path_bytes(name), safe="").replace(".", "%2E").replace("~", "%7E")


def _extension(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def media_of(path: str) -> Media | None:
    """The kind of a file by its extension; None if it is not supported."""
    extension = _extension(path)
    return "clips" if extension in CLIP_EXTENSIONS else "images" if extension in IMAGE_EXTENSIONS else None


def class_of(path: str) -> str:
    """The first folder of a relative path; for paths that begin with / or .., the folder of the file."""
    first, *others = PurePosixPath(posixpath.normpath(path)).parts
    if first in ("/", "//", ".."):
        return "" if len(others) < 2 else others[-2]
    return first if others else NO_CLASS


def _file(path: str, media: Media, class_name: str, span: tuple[int, int] | None = None, fault: str = "") -> Source:
    return Source(path, sample_key(PurePosixPath(path).stem), class_name, media, span, fault)


def _kind_of_file(path: str) -> str:
    """The kind under which a skipped file is counted."""
    return "hidden files" if is_hidden(path) else _extension(path)[:16] or "files without extension"


def _files(entries: Iterable[Entry], media: Media | None, ignored: Counter[str]) -> Iterator[Source]:
    """Files with a supported extension; the first folder of the path is the class, at any depth."""
    for path, span, fault in entries:
        kind = media_of(path)
        if kind and media in (None, kind) and not is_hidden(path):
            yield _file(path, kind, class_of(path), span, fault)
        else:
            ignored[_kind_of_file(path)] += 1


def frame_files(paths: Iterable[str], pattern: str | None) -> Iterator[str]:
    """Paths of frames of a clip: images that are not hidden and whose names match `pattern`."""
    matches = re.compile(pattern or ".*", re.DOTALL).fullmatch
    return (p for p in paths if media_of(p) == "images" and not is_hidden(p) and matches(PurePosixPath(p).name))


def _frame_folders(paths: Iterable[str], pattern: str | None, ignored: Counter[str]) -> Iterator[Source]:
    """One clip for each folder that directly contains frames."""
    last = None
    for path in paths:
        folder = path.rpartition("/")[0]
        if not folder or not any(frame_files([path], pattern)):
            unmatched = pattern is not None and any(frame_files([path], None))
            ignored["images that frames.pattern does not match" if unmatched else _kind_of_file(path)] += 1
        elif folder != last:  # the files of a folder are listed in a row
            yield Source(folder, sample_key(PurePosixPath(folder).name), class_of(folder), "frames")
            last = folder


def _file_test(root: Storage) -> Callable[[str], bool]:
    """A test whether a file exists; after the first hit in a top-level folder, it assumes that all of its files do."""
    folders = set()

    def is_file(path: str) -> bool:
        folder, below, _ = path.partition("/")
        if folder not in folders:
            try:
                if root.size(path) is None:
                    return False
            except OSError:
                return False  # a name that is too long, for instance
            if folder and below:
                folders.add(folder)
        return True

    return is_file


def _listed(
    lines: Iterable[str], name: str, root: Storage, media: Media | None, ignored: Counter[str]
) -> Iterator[Source]:
    """Inputs of lines `PATH` or `PATH<tab>CLASS`, possibly in quotes; the default class is that of the path.

    If `media` is given, extensions do not matter. Messages call the list `name`.
    """
    is_file = _file_test(root)
    for number, line in enumerate(lines, start=1):
        given, _, class_name = line.rstrip("\r\n").partition("\t")
        if not given.strip():
            continue
        where = f"{name}, line {number}"
        if "\t" in class_name:
            raise UserError(f"{where}: more than two columns; allowed are PATH or PATH<tab>CLASS")
        text = unquoted(given, where)
        path = str(PurePosixPath(text))  # without ./ and //
        if given[0] in "\"'":
            class_name = unquoted(class_name, where)
        if media_of(class_name.strip()):
            raise UserError(
                f"{where}: the second column, {class_name!r}, is a path; allowed are PATH or PATH<tab>CLASS"
            )
        if not media_of(path) and (media_of(re.split("[ ,;]", path)[0]) or _PATH_AND_MORE.fullmatch(path)):
            raise UserError(f"{where}: {given!r} has no tab; allowed are PATH or PATH<tab>CLASS")
        if "://" in given:
            raise UserError(f"{where}: {given!r} is a URI; allowed are paths, relative to the folder of the list")
        kind = media or media_of(path)
        if is_directive(given, where) or (given.startswith("#") and not media_of(path)):
            ignored["lines that name no file"] += 1
            continue
        if kind and text == given:
            refuse_other_formats(given, where, is_file)
        if kind and not is_hidden(path):
            yield _file(path, kind, class_name.strip() or class_of(path))
        else:
            ignored[_kind_of_file(path)] += 1


def _annotated(
    clips: Iterable[AnnotatedClip], files: dict[str, list[str]], split: str, ignored: Counter[str]
) -> Iterator[Source]:
    """Clips of an annotation file; `files` maps file names without extension to the paths that have them.

    All paths of one name are inputs with one key, and the first that decodes is the sample. Clips without a file remain
    inputs and become rejects.
    """
    named = set()
    for clip in clips:
        if clip.split.casefold() not in ("", split.casefold()):
            ignored[f"rows of split {clip.split}"] += 1
        else:
            named.add(clip.stem)
            for path in files.get(clip.stem, [f"{clip.stem}.mp4"]):
                yield _file(path, "clips", clip.label or NO_CLASS)
    if unnamed := sum(len(paths) for stem, paths in files.items() if stem not in named):
        ignored["clips that the annotations do not name"] = unnamed


def _clips_by_stem(paths: Iterable[str], ignored: Counter[str]) -> dict[str, list[str]]:
    """Clips by their file names without extension; other files are counted in `ignored`."""
    files: dict[str, list[str]] = {}
    for source in _files((Entry(path) for path in paths), "clips", ignored):
        files.setdefault(PurePosixPath(source.path).stem, []).append(source.path)
    return files


def _lines(storage: Storage, name: str) -> Iterator[str]:
    with storage.open(name) as stream:
        yield from text_lines(stream, f"{storage}/{name}")


def _class_names(folders: Iterable[Storage]) -> dict[str, str]:
    """Rows `FOLDER,NAME` of the first labels.txt in `folders`; empty if there is none."""
    for storage in folders:
        if storage.size(CLASS_NAMES) is not None:
            rows = csv.reader(_lines(storage, CLASS_NAMES), strict=True)  # report an open quote instead of reading on
            try:
                return {row[0].strip(): row[1].strip() for row in rows if len(row) > 1}
            except csv.Error as error:
                raise UserError(
                    f"{storage}/{CLASS_NAMES}, line {rows.line_num}: {error}; rows are FOLDER,NAME with quotes in pairs"
                ) from error
    return {}


def open_data(uri: str) -> Data:
    """Open the DATA of a job.

    Raises:
        UserError: it does not exist, or is a file of an unsupported kind.
    """
    storage = open_storage(uri)
    parent, name = storage.split()
    if parent.size(name) is None:
        if storage.is_missing():
            raise UserError(f"the data folder {uri} does not exist or is not a folder")
        return Data(uri, storage, None, storage.location)
    if _extension(name) not in LIST_EXTENSIONS | {".tar"}:
        raise UserError(
            f"{uri} is neither a folder, nor an uncompressed .tar, nor a text file of paths "
            f"({', '.join(sorted(LIST_EXTENSIONS))})"
        )
    return Data(uri, parent, name, storage.location)


def list_sources(
    data: Data,
    media: Media | None = None,
    annotations: Storage | None = None,
    split: str = "train",
    pattern: str | None = None,
) -> Listing:
    """List the inputs in a folder, in an uncompressed tar (possibly of tars), or in a text file of paths.

    Args:
        data: opened data.
        media: kind of inputs; None takes every clip and image. `frames` takes folders of images as clips.
        annotations: Kinetics annotation CSV that names clips and their classes; `data` is then the folder of clips.
        split: split of the rows of `annotations` to take.
        pattern: regular expression for the names of frames; folders without a matching image are not clips.

    Raises:
        UserError: `data` does not fit the other arguments; a list or CSV is malformed (raised while `sources` is read).
    """
    root = data.root
    listing = Listing(data.uri, iter(()))
    ignored = listing.ignored
    if data.file is not None:
        if annotations is not None or media == "frames":
            raise UserError(f"{data.uri} is a file; annotations and media = frames need a folder")
        if data.tar is not None:
            listing.sources = _files(tar_entries(root, data.tar, ignored), media, ignored)
        else:
            listing.sources = _listed(_lines(root, data.file), data.uri, root, media, ignored)
        return listing
    listing.names = _class_names((root, root.split()[0]))
    if annotations is not None:
        files = _clips_by_stem(root.walk(), ignored)
        listing.sources = _annotated(
            annotated_clips(_lines(*annotations.split()), str(annotations)), files, split, ignored
        )
    elif media == "frames":
        listing.sources = _frame_folders(root.walk(), pattern, ignored)
    else:
        listing.sources = _files((Entry(path) for path in root.walk()), media, ignored)
    return listing
