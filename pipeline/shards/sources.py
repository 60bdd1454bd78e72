"""The inputs of a job: one `Source` per clip or image, listed from the layouts in which the data sets come."""

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
"""Beside class folders: rows `FOLDER,NAME` that say what each class is called."""
_PATH_AND_MORE = re.compile(
    rf".*({'|'.join(map(re.escape, sorted(CLIP_EXTENSIONS | IMAGE_EXTENSIONS)))})[ ,;|:\"'\])}}>][^.]*", re.IGNORECASE
)
"""A line that goes on behind the path of a file that would be taken."""
NO_CLASS = ""
"""Class of inputs that have none; their label is -1."""


@dataclass(frozen=True)
class Source:
    """One input: its `path` below the data root (a folder for `frames`), its sample key, its class and its kind.

    With a `span` (first byte, number of bytes) it lies within the tar that the job reads, and `path` names it there.
    With a `fault` it cannot be read: a link in a tar that leads nowhere.
    """

    path: str
    key: str
    class_name: str
    media: Media
    span: tuple[int, int] | None = None
    fault: str = ""


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
    return quote_from_bytes(path_bytes(name), safe="").replace(".", "%2E").replace("~", "%7E")


def media_of(path: str) -> Media | None:
    """What a file's extension says it is."""
    extension = PurePosixPath(path).suffix.lower()
    return "clips" if extension in CLIP_EXTENSIONS else "images" if extension in IMAGE_EXTENSIONS else None


def class_of(path: str) -> str:
    """The first folder of a relative path, the folder that holds the file of one that leads elsewhere."""
    first, *others = PurePosixPath(posixpath.normpath(path)).parts
    if first in ("/", "//", ".."):
        return "" if len(others) < 2 else others[-2]
    return first if others else NO_CLASS


def _file(path: str, media: Media, class_name: str, span: tuple[int, int] | None = None, fault: str = "") -> Source:
    return Source(path, sample_key(PurePosixPath(path).stem), class_name, media, span, fault)


def _kind_of_file(path: str) -> str:
    """How files that are not taken are counted."""
    return "hidden files" if is_hidden(path) else PurePosixPath(path).suffix.lower()[:16] or "files without extension"


def _files(entries: Iterable[Entry], media: Media | None, ignored: Counter[str]) -> Iterator[Source]:
    """Files with a known extension; the first folder is the class, whatever the depth."""
    for path, span, fault in entries:
        kind = media_of(path)
        if kind and media in (None, kind) and not is_hidden(path):
            yield _file(path, kind, class_of(path), span, fault)
        else:
            ignored[_kind_of_file(path)] += 1


def frame_files(paths: Iterable[str], pattern: str | None) -> Iterator[str]:
    """Those that are frames of a clip: images that are not hidden and whose names the `pattern` takes."""
    takes = re.compile(pattern or ".*", re.DOTALL).fullmatch
    return (p for p in paths if media_of(p) == "images" and not is_hidden(p) and takes(PurePosixPath(p).name))


def _frame_folders(paths: Iterable[str], pattern: str | None, ignored: Counter[str]) -> Iterator[Source]:
    """Each folder that directly holds frames is one clip."""
    last = None
    for path in paths:
        folder = path.rpartition("/")[0]
        if not folder or not any(frame_files([path], pattern)):
            left_out = pattern is not None and any(frame_files([path], None))
            ignored["images that frames.pattern leaves out" if left_out else _kind_of_file(path)] += 1
        elif folder != last:  # the files of a folder come one after the other
            yield Source(folder, sample_key(PurePosixPath(folder).name), class_of(folder), "frames")
            last = folder


def _file_test(root: Storage) -> Callable[[str], bool]:
    """Whether there is a file; once there is one, all below the same first folder are taken to be there."""
    folders = set()

    def is_file(path: str) -> bool:
        folder, below, _ = path.partition("/")
        if folder not in folders:
            try:
                if root.size(path) is None:
                    return False
            except OSError:
                return False  # such as a name that is too long
            if folder and below:
                folders.add(folder)
        return True

    return is_file


def _listed(
    lines: Iterable[str], place: str, root: Storage, media: Media | None, ignored: Counter[str]
) -> Iterator[Source]:
    """Lines of `PATH` or `PATH<tab>CLASS`, also in quotes; with `media` given, whatever their extensions.

    Without a class it is that of the path.
    """
    is_file = _file_test(root)
    for number, line in enumerate(lines, start=1):
        given, _, class_name = line.rstrip("\r\n").partition("\t")
        if not given.strip():
            continue
        where = f"{place}, line {number}"
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
            raise UserError(f"{where}: {given!r} is an address; allowed are paths, counted from the folder of the list")
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
    """Clips of an annotation file; `files` gives the paths that have the file name of a clip, whatever the extension.

    All of them are inputs of one key, of which the first that decodes is the sample. Clips that are listed but not
    there stay inputs, so that they end as rejects.
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
    """Clips by their file names without extension; what is none is counted."""
    files: dict[str, list[str]] = {}
    for source in _files((Entry(path) for path in paths), "clips", ignored):
        files.setdefault(PurePosixPath(source.path).stem, []).append(source.path)
    return files


def _lines(storage: Storage, name: str) -> Iterator[str]:
    with storage.open(name) as stream:
        yield from text_lines(stream, f"{storage}/{name}")


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
    data: str,
    media: Media | None = None,
    annotations: str | None = None,
    split: str = "train",
    pattern: str | None = None,
) -> Listing:
    """List the inputs at `data`: a folder, an uncompressed tar (also of tars), or a text file of paths.

    Args:
        data: path or address.
        media: what to take; None takes every clip and image. `frames` takes folders of images as clips.
        annotations: Kinetics annotation CSV that names clips and their classes; `data` is then the folder of clips.
        split: rows of `annotations` to take.
        pattern: regular expression for the names of frames; folders without any are no clips.

    Raises:
        UserError: `data` is none of these; a list or CSV is malformed (raised while `sources` is read).
    """
    root, tar = data_root(data)
    listing = Listing(root, tar, iter(()))
    ignored = listing.ignored
    if root.place != open_storage(data).place:
        if annotations is not None or media == "frames":
            raise UserError(f"{data} is a file; annotations and media = frames need a folder")
        if tar is not None:
            listing.sources = _files(tar_entries(root, tar, ignored), media, ignored)
        else:
            listing.sources = _listed(_lines(*_split_file(data)), data, root, media, ignored)
        return listing
    listing.names = _class_names((root, _split_file(data)[0]))
    if annotations is not None:
        files = _clips_by_stem(root.walk(), ignored)
        clips = annotated_clips(_lines(*_split_file(annotations)), annotations)
        listing.sources = _annotated(clips, files, split, ignored)
    elif media == "frames":
        listing.sources = _frame_folders(root.walk(), pattern, ignored)
    else:
        listing.sources = _files((Entry(path) for path in root.walk()), media, ignored)
    return listing
