"""Parsing of lists of paths as editors, spreadsheets and other programs write them."""

import codecs
import io
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from pipeline.settings import UserError
from pipeline.shards.media import CLIP_EXTENSIONS, IMAGE_EXTENSIONS, media_of
from pipeline.shards.tables import Row, csv_rows, is_header, json_rows, make_cut, milliseconds

_FORMS = "PATH, PATH<tab>CLASS, PATH NUMBER"
_ALLOWED = f"allowed are {_FORMS}, or a first line that names columns, such as path<tab>class<tab>start<tab>end"
_SUPPORTED = "|".join(map(re.escape, sorted(CLIP_EXTENSIONS | IMAGE_EXTENSIONS)))
_CLASS_NUMBER = re.compile(rf"(.*({_SUPPORTED}))\s*[ ,;]\s*(\d+)\s*", re.IGNORECASE)
"""A path and the number of its class, as most training programs for clips read them."""
_PATH_AND_MORE = re.compile(rf".*({_SUPPORTED})[ ,;|:\"'\])}}>][^.]*", re.IGNORECASE)
"""A line with further text after the path of a supported file."""
_QUOTED = re.compile(r"""(?:file\s+)?((["']).*\2)\s*""")
"""A path in quotes, possibly after the word `file` of ffmpeg's concat lists."""
_TIME = r"([\d:.]+)(us|ms|s)?"
_UNITS_PER_S = {None: 1, "s": 1, "ms": 1000, "us": 1_000_000}
_DIRECTIVE = re.compile(
    rf"ffconcat version [\d.]+|duration {_TIME}|stream|"
    r"(chapter|exact_stream_id|file_packet_meta(data)?|option|stream_(codec|extradata|meta)) [^.]*"
)
"""A line of ffmpeg's concat lists that names no file and does not cut one."""
_PART = re.compile(rf"(inpoint|outpoint) {_TIME}")
"""A line that cuts the file of the line before."""
_OTHER_FORMATS = {
    "a line of a checksum program": re.compile(r"[0-9a-f]{32,128} [ *].+", re.IGNORECASE),
    "a line of `ls -l`": re.compile(r"[-bcdlps][-rwxsStT]{9}[.+@]? +\d+ .+"),
    "a path of Windows": re.compile(r"[a-z]:[\\/].+|\\\\.+", re.IGNORECASE),
}
_NUMBERED = re.compile(r"\s*\d[\d.,:]*[KMGTP]?[.):]?\s+(\S.*)")
"""A number and a path, or a path that begins with a number."""


def text_lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Lines of UTF-8, or of UTF-16 with a byte order mark; bytes that are not UTF-8 become surrogates, as in paths.

    Raises:
        UserError: it is not text; the message calls it `name`.
    """
    marked = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    stream.seek(0)
    encoding, errors = ("utf-16", "strict") if marked else ("utf-8-sig", "surrogateescape")
    try:
        for number, line in enumerate(io.TextIOWrapper(stream, encoding, errors, newline=""), start=1):
            if "\0" in line:
                raise UserError(
                    f"{name}, line {number}: contains a NUL byte; it must be UTF-8 text with one path or row per line"
                )
            yield line
    except UnicodeDecodeError as error:
        raise UserError(f"{name} begins like UTF-16 text but is not ({error.reason}): save it as UTF-8") from error


def _unquoted(text: str, where: str) -> str:
    """The path or class in a column of a list, which may be in quotes or have the form `file 'PATH'`.

    Raises:
        UserError: it is ambiguous; the message calls the line `where`.
    """
    if quoted := _QUOTED.fullmatch(text):
        try:
            (path,) = shlex.split(quoted[1])
        except ValueError as error:
            raise UserError(f"{where}: {text!r} has quotes around something other than one path") from error
        return path
    if re.match(r"file\s+\S", text):
        raise UserError(
            f"{where}: {text!r} looks like a line of an ffmpeg concat list: remove the word file, or put the path in "
            "quotes"
        )
    return text


def _in_part(row: Row | None, part: re.Match[str], where: str) -> Row:
    """The file before a line `inpoint TIME` or `outpoint TIME`, with that limit."""
    if row is None:
        raise UserError(f"{where}: {part[0]!r} follows no file")
    start, end = row.cut or (0, None)
    time = round(milliseconds(part[2], where) / _UNITS_PER_S[part[3]])
    start, end = (time, end) if part[1] == "inpoint" else (start, time)
    return row._replace(cut=make_cut(start, end, where))


def _refuse_other_formats(text: str, where: str, is_file: Callable[[str], bool]) -> None:
    """Refuse a line of another format than the allowed ones; `is_file` is called only if it decides.

    Raises:
        UserError: the line looks like another format; the message calls it `where`.
    """
    if text.startswith("#"):
        raise UserError(
            f"{where}: {text!r} may be a comment or a path: remove the line, or write ./ before a path that begins so"
        )
    for what, form in _OTHER_FORMATS.items():
        if form.fullmatch(text.strip()):
            raise UserError(f"{where}: {text!r} looks like {what}; {_ALLOWED}")
    numbered = _NUMBERED.fullmatch(text)
    if numbered and not is_file(text) and is_file(numbered[1]):
        raise UserError(f"{where}: {text!r} is not a file but {numbered[1]!r} is; {_ALLOWED}")
    if "\\" in text and not is_file(text):
        raise UserError(f"{where}: {text!r} has backslashes and is not a file; paths have / between folders")


def _list_row(line: str, where: str, is_file: Callable[[str], bool], any_extension: bool) -> Row | None:
    """The input that a line names; None if it names no file."""
    given, _, class_name = line.partition("\t")
    if "\t" in class_name:
        raise UserError(f"{where}: more than two columns; {_ALLOWED}")
    if not class_name and (numbered := _CLASS_NUMBER.fullmatch(given)):
        given, class_name = numbered[1], numbered[3]
    text = _unquoted(given, where)
    path = str(PurePosixPath(text))  # without ./ and //
    if given[0] in "\"'":
        class_name = _unquoted(class_name, where)
    if media_of(class_name.strip()):
        raise UserError(f"{where}: the second column, {class_name!r}, is a path; {_ALLOWED}")
    if not media_of(path) and (media_of(re.split("[ ,;]", path)[0]) or _PATH_AND_MORE.fullmatch(path)):
        raise UserError(f"{where}: {given!r} has no tab; {_ALLOWED}")
    if "://" in given:
        raise UserError(f"{where}: {given!r} is a URI; allowed are paths, relative to the folder of the list")
    if _DIRECTIVE.fullmatch(" ".join(given.split())) or (given.startswith("#") and not media_of(path)):
        return None
    if text == given and (any_extension or media_of(path)):
        _refuse_other_formats(given, where, is_file)
    return Row(where, path, class_name.strip())


def _list_rows(
    lines: Iterable[str], name: str, is_file: Callable[[str], bool], any_extension: bool, ignored: Counter[str]
) -> Iterator[Row]:
    """Inputs of lines PATH, PATH<tab>CLASS or PATH NUMBER, possibly in quotes, and of ffmpeg's concat lists."""
    last: Row | None = None
    for number, line in enumerate(lines, start=1):
        where, line = f"{name}, line {number}", line.rstrip("\r\n")
        if not line.partition("\t")[0].strip():
            continue
        if part := _PART.fullmatch(" ".join(line.split())):
            last = _in_part(last, part, where)
        elif (row := _list_row(line, where, is_file, any_extension)) is None:
            ignored["lines that name no file"] += 1
        else:
            if last is not None:
                yield last
            last = row
    if last is not None:
        yield last


def read_rows(
    lines: Iterator[str], name: str, is_file: Callable[[str], bool], any_extension: bool, ignored: Counter[str]
) -> Iterator[Row]:
    """Inputs of the list or table `name`, whose first line says which of the two it is.

    Args:
        lines: its lines.
        name: its path; names ending in .json or .jsonl are JSON.
        is_file: whether a path exists; called only where that decides what a line means.
        any_extension: whether files with other extensions than the supported ones are inputs.
        ignored: counts lines that name no file.

    Raises:
        UserError: a line cannot be read, or has another format; names the line.
    """
    if name.lower().endswith((".json", ".jsonl")):
        return json_rows(lines, name)
    if re.search(r"_test_split\d\.txt$", name):
        raise UserError(f"{name} is a split of HMDB51, whose numbers are no classes: see docs/sources.md")
    first = next(lines, "")
    lines = itertools.chain([first], lines)
    if is_header(first) or (name.lower().endswith(".csv") and not re.search(_SUPPORTED, first, re.IGNORECASE)):
        return csv_rows(lines, name)
    return _list_rows(lines, name, is_file, any_extension, ignored)
