"""The inputs of a job: one `Source` per clip or image, listed from a folder, a tar or a text file of paths."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.settings import UserError
from pipeline.shards.clip_files import ClipFiles
from pipeline.shards.keys import sample_key
from pipeline.shards.lists import read_rows, text_lines
from pipeline.shards.media import NO_CLASS, Media, class_of, extension, is_hidden, media_of
from pipeline.shards.tables import Cut, Row
from pipeline.shards.tars import tar_entries, tar_in_path
from pipeline.spec import Keys
from pipeline.storage import Storage, open_storage
from pipeline.temporary import temporary_database

LIST_EXTENSIONS = frozenset([".csv", ".json", ".jsonl", ".list", ".lst", ".tsv", ".txt"])
CLASS_NAMES = "labels.txt"
"""File beside or above the class folders with rows `FOLDER,NAME`: the name of each class."""
CLASS_NUMBERS = "classInd.txt"
"""File of UCF101 beside its lists with rows `NUMBER NAME`: the class of each number."""


@dataclass(frozen=True)
class Source:
    """One input: its `path` below the data root (a folder for `frames`), sample key, class and kind.

    An input in a tar has a `span` (first byte, number of bytes), and `path` is its name in the tar, in a folder of tars
    after the path of the tar. A `fault` is the reason why it cannot be read, such as a link in a tar to a missing file.
    If only a part of a clip is wanted, `cut` is its start and end in milliseconds from the beginning of the file (end
    None: to its end); several inputs may then have the same path and key.
    """

    path: str
    key: str
    class_name: str
    media: Media
    span: tuple[int, int] | None = None
    fault: str = ""
    cut: Cut | None = None


@dataclass(frozen=True)
class Data:
    """The opened DATA of a job: a folder, a tar or a list."""

    uri: str
    """As the user gave it."""
    root: Storage
    """Folder that the paths of sources are relative to."""
    file: str | None
    """Name of the tar or list below the root; None for a folder."""
    location: str
    """Canonical path or URI."""

    @property
    def tar(self) -> str | None:
        """Name of the tar below the root; None for other data."""
        return self.file if self.file is not None and extension(self.file) == ".tar" else None


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


def _kind_of_file(path: str) -> str:
    """The kind under which a skipped file is counted."""
    return "hidden files" if is_hidden(path) else extension(path)[:16] or "files without extension"


def _media(path: str, media: Media | None, ignored: Counter[str]) -> Media | None:
    """The kind of a file that is an input; others are counted in `ignored`."""
    kind = media_of(path)
    if kind and media in (None, kind) and not is_hidden(path):
        return kind
    ignored[_kind_of_file(path)] += 1
    return None


def _tar_files(root: Storage, tar: str, media: Media | None, keys: Keys, ignored: Counter[str]) -> Iterator[Source]:
    """Inputs in one tar, which is the whole DATA."""
    for path, span, fault, class_name in tar_entries(root, tar, ignored):
        if kind := _media(path, media, ignored):
            named = class_of(path) if class_name is None else class_name
            yield Source(path, sample_key(path, keys), named, kind, span, fault)


def _files_of_tars(
    root: Storage, tars: Iterable[str], media: Media | None, keys: Keys, ignored: Counter[str]
) -> Iterator[Source]:
    """Inputs in the tars of a folder, as if each `X.tar` were a folder X."""
    for tar in tars:
        for path, span, fault, class_name in tar_entries(root, tar, ignored):
            if kind := _media(path, media, ignored):
                unpacked = f"{tar[: -len('.tar')]}/{path.lstrip('/')}"
                named = class_of(unpacked) if class_name is None else class_name
                yield Source(f"{tar}/{path}", sample_key(unpacked, keys), named, kind, span, fault)


def _files(root: Storage, media: Media | None, keys: Keys, ignored: Counter[str]) -> Iterator[Source]:
    """Files with a supported extension below a folder, or if it has none but tars, those in the tars."""
    tars = []
    has_files = False
    for path in root.walk():
        if extension(path) == ".tar" and not is_hidden(path) and tar_in_path(f"{path}/") == path:
            tars.append(path)
        elif kind := _media(path, media, ignored):
            has_files = True
            yield Source(path, sample_key(path, keys), class_of(path), kind)
    if has_files and tars:
        ignored[".tar"] += len(tars)
    elif tars:
        yield from _files_of_tars(root, sorted(tars), media, keys, ignored)


def frame_files(paths: Iterable[str], pattern: str | None) -> Iterator[str]:
    """Paths of frames of a clip: images that are not hidden and whose names match `pattern`."""
    matches = re.compile(pattern or ".*", re.DOTALL).fullmatch
    return (p for p in paths if media_of(p) == "images" and not is_hidden(p) and matches(PurePosixPath(p).name))


def _frame_folders(paths: Iterable[str], pattern: str | None, keys: Keys, ignored: Counter[str]) -> Iterator[Source]:
    """One clip for each folder that directly contains frames."""
    last = None
    for path in paths:
        folder = path.rpartition("/")[0]
        if not folder or not any(frame_files([path], pattern)):
            unmatched = pattern is not None and any(frame_files([path], None))
            ignored["images that frames.pattern does not match" if unmatched else _kind_of_file(path)] += 1
        elif folder != last:  # the files of a folder are listed in a row
            yield Source(folder, sample_key(folder, keys, is_folder=True), class_of(folder), "frames")
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


def _below(folders: Iterable[str], path: str) -> str:
    """An absolute path as one relative to that of the folders in which it lies; other paths stay as they are."""
    return next((path[len(folder) :] for folder in folders if path.startswith(folder)), path)


def _checked_cut(row: Row, kind: Media) -> Cut | None:
    if row.cut and kind != "clips":
        raise UserError(f"{row.where}: start and end are for clips; {row.name} is an image")
    return row.cut


def _listed(
    rows: Iterable[Row], root: Storage, media: Media | None, split: str, keys: Keys, ignored: Counter[str]
) -> Iterator[Source]:
    """Inputs of a list; the default class is that of the path. If `media` is given, extensions do not matter.

    Keys of files below the root do not depend on where it is, even if the list gives absolute paths.
    """
    roots = {f"{root.uri.rstrip('/')}/", f"{root.location.rstrip('/')}/"}
    for row in _of_split(rows, split, ignored):
        path = row.name
        if row.stems or not (row.is_path or extension(path)):
            raise UserError(
                f"{row.where}: {row.name!r} is the name of a clip, not a path: give the folder of the clips as DATA "
                "and this file as --annotations"
            )
        kind = media or media_of(path)
        if kind and not is_hidden(path):
            key = sample_key(_below(roots, path), keys)
            yield Source(path, key, row.class_name or class_of(path), kind, cut=_checked_cut(row, kind))
        else:
            ignored[_kind_of_file(path)] += 1


def _of_split(rows: Iterable[Row], split: str, ignored: Counter[str]) -> Iterator[Row]:
    """Rows of this split or of none; case is ignored."""
    for row in rows:
        if row.split.casefold() in ("", split.casefold()):
            yield row
        else:
            ignored[f"rows of split {row.split}"] += 1


def _annotated(rows: Iterable[Row], root: Storage, split: str, keys: Keys, ignored: Counter[str]) -> Iterator[Source]:
    """Clips in a folder that a list names by path or by file name without extension.

    All files of one clip are inputs, and if they have one key, the first that decodes is the sample. Clips without a
    file remain inputs and become rejects.
    """
    clips = (path for path in root.walk() if _media(path, "clips", ignored))
    with temporary_database() as database:
        files = ClipFiles(database, clips)
        for row in _of_split(rows, split, ignored):
            paths = files.of_names(row.stems) if row.stems else files.of_path(row.name)
            class_name = row.class_name or (class_of(row.name) if row.is_path else NO_CLASS)
            missing = row.stems[0] if row.stems else row.name
            for path in paths or [missing if media_of(missing) else f"{missing}.mp4"]:
                by_stem = keys == "auto" and row.stems
                key = sample_key(path, "stem" if by_stem else keys)
                yield Source(path, key, class_name, "clips", cut=row.cut)
        if unnamed := files.unnamed():
            ignored["clips that the annotations do not name"] = unnamed


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


def _with_class_names(rows: Iterable[Row], folder: Storage) -> Iterator[Row]:
    """Rows whose numbers of classes are replaced by the names that a classInd.txt of UCF101 in `folder` gives them."""
    if folder.size(CLASS_NUMBERS) is None:
        return iter(rows)
    words = (line.split(maxsplit=1) for line in _lines(folder, CLASS_NUMBERS))
    names = {pair[0]: pair[1].strip() for pair in words if len(pair) > 1}
    return (row._replace(class_name=names.get(row.class_name, row.class_name)) for row in rows)


def _rows(file: tuple[Storage, str], root: Storage, any_extension: bool, ignored: Counter[str]) -> Iterator[Row]:
    """Rows of the list `file`, whose paths are relative to `root`."""
    folder, name = file
    rows = read_rows(_lines(folder, name), f"{folder}/{name}", _file_test(root), any_extension, ignored)
    return _with_class_names(rows, folder)


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
    if extension(name) not in LIST_EXTENSIONS | {".tar"}:
        raise UserError(
            f"{uri} is neither a folder, nor an uncompressed .tar, nor a list of paths "
            f"({', '.join(sorted(LIST_EXTENSIONS))})"
        )
    return Data(uri, parent, name, storage.location)


def list_sources(
    data: Data,
    media: Media | None = None,
    annotations: Storage | None = None,
    split: str = "train",
    pattern: str | None = None,
    keys: Keys = "auto",
) -> Listing:
    """List the inputs in a folder, possibly of tars, in an uncompressed tar, possibly of tars, or in a list.

    Args:
        data: opened data.
        media: kind of inputs; None takes every clip and image. `frames` takes folders of images as clips.
        annotations: list that names clips in the folder `data`, and their classes.
        split: split of the rows of a list or of `annotations` to take.
        pattern: regular expression for the names of frames; folders without a matching image are not clips.
        keys: how samples are named (see pipeline/shards/keys.py).

    Raises:
        UserError: `data` does not fit the other arguments; a list is malformed (raised while `sources` is read).
    """
    root = data.root
    listing = Listing(data.uri, iter(()))
    ignored = listing.ignored
    if data.file is not None:
        if annotations is not None or media == "frames":
            raise UserError(f"{data.uri} is a file; annotations and media = frames need a folder")
        if data.tar is not None:
            listing.sources = _tar_files(root, data.tar, media, keys, ignored)
        else:
            rows = _rows((root, data.file), root, media is not None, ignored)
            listing.sources = _listed(rows, root, media, split, keys, ignored)
        return listing
    listing.names = _class_names((root, root.split()[0]))
    if annotations is not None:
        if media not in (None, "clips"):
            raise UserError(f"annotations name clips; media is {media}")
        rows = _rows(annotations.split(), root, False, ignored)
        listing.sources = _annotated(rows, root, split, keys, ignored)
    elif media == "frames":
        listing.sources = _frame_folders(root.walk(), pattern, keys, ignored)
    else:
        listing.sources = _files(root, media, keys, ignored)
    return listing
