"""Parsing of lists of paths and annotation tables as editors, spreadsheets and other programs write them."""

import codecs
import csv
import io
import itertools
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

from pipeline.settings import UserError

_DELIMITERS = ",;\t"
_STATED_DELIMITER = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""First line by which spreadsheets state the delimiter."""
_QUOTED = re.compile(r"""(?:file\s+)?((["']).*\2)\s*""")
"""A path in quotes, possibly after the word `file` of ffmpeg's concat lists."""
_TIME = r"[\d:.]+(us|ms|s)?"
_DIRECTIVE = re.compile(
    rf"ffconcat version [\d.]+|duration {_TIME}|stream|"
    r"(chapter|exact_stream_id|file_packet_meta(data)?|option|stream_(codec|extradata|meta)) [^.]*"
)
"""A line of ffmpeg's concat lists that names no file and does not cut one."""
_PART = re.compile(rf"(inpoint|outpoint) {_TIME}")
_OTHER_FORMATS = {
    "a line of a checksum program": re.compile(r"[0-9a-f]{32,128} [ *].+", re.IGNORECASE),
    "a line of `ls -l`": re.compile(r"[-bcdlps][-rwxsStT]{9}[.+@]? +\d+ .+"),
    "a path of Windows": re.compile(r"[a-z]:[\\/].+|\\\\.+", re.IGNORECASE),
}
_NUMBERED = re.compile(r"\s*\d[\d.,:]*[KMGTP]?[.):]?\s+(\S.*)")
"""A number and a path, or a path that begins with a number."""


class AnnotatedClip(NamedTuple):
    """One row of a Kinetics annotation file."""

    stem: str
    """File name of the clip without its extension."""
    label: str
    """Its class, or empty."""
    split: str
    """Its split, or empty."""


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


def unquoted(text: str, where: str) -> str:
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


def is_directive(text: str, where: str) -> bool:
    """Whether this is a line of an ffmpeg concat list that names no file.

    Raises:
        UserError: it selects a part of a file; the message calls the line `where`.
    """
    line = " ".join(text.split())
    if _PART.fullmatch(line):
        raise UserError(f"{where}: {line!r} selects a part of a clip; only whole clips can be used: cut it first")
    return _DIRECTIVE.fullmatch(line) is not None


def refuse_other_formats(text: str, where: str, is_file: Callable[[str], bool]) -> None:
    """Refuse a line of another format than the two allowed ones; `is_file` is called only if it decides.

    Raises:
        UserError: the line looks like another format; the message calls it `where`.
    """
    allowed = "allowed are PATH or PATH<tab>CLASS"
    if text.startswith("#"):
        raise UserError(
            f"{where}: {text!r} may be a comment or a path: remove the line, or write ./ before a path that begins so"
        )
    for what, form in _OTHER_FORMATS.items():
        if form.fullmatch(text.strip()):
            raise UserError(f"{where}: {text!r} looks like {what}; {allowed}")
    numbered = _NUMBERED.fullmatch(text)
    if numbered and not is_file(text) and is_file(numbered[1]):
        raise UserError(f"{where}: {text!r} is not a file but {numbered[1]!r} is; {allowed}")
    if "\\" in text and not is_file(text):
        raise UserError(f"{where}: {text!r} has backslashes and is not a file; paths have / between folders")


def annotated_clips(lines: Iterable[str], name: str) -> Iterator[AnnotatedClip]:
    """Rows of a Kinetics annotation file with commas, semicolons or tabs between columns.

    Raises:
        UserError: columns are missing, or a row cannot be read; names the line.
    """
    lines = iter(lines)
    header = next(lines, "")
    stated = _STATED_DELIMITER.fullmatch(header)
    above = 1 if stated else 0
    header = next(lines, "") if stated else header
    delimiter = stated[1] if stated else max(_DELIMITERS, key=header.count)
    table = csv.reader(itertools.chain([header], lines), delimiter=delimiter, skipinitialspace=True, strict=True)
    line = above + 1
    try:
        columns = [column.strip().lower() for column in next(table, [])]
        if missing := {"youtube_id", "time_start", "time_end"} - set(columns):
            raise UserError(
                f"{name} has no column {', '.join(sorted(missing))}; a Kinetics annotation file has the columns "
                "label,youtube_id,time_start,time_end,split"
            )
        while True:
            line = above + table.line_num + 1  # where the row begins; with an open quote it spans several lines
            row = next(table, None)
            if row is None:
                return
            if any("\n" in value or "\r" in value for value in row):
                raise csv.Error("a value spans several lines")
            if row:
                values = dict(zip(columns, map(str.strip, row), strict=False))
                start, end = (int(float(values[column])) for column in ("time_start", "time_end"))
                stem = f"{values['youtube_id']}_{start:06d}_{end:06d}"
                yield AnnotatedClip(stem, values.get("label", ""), values.get("split", ""))
    except csv.Error as error:
        raise UserError(f"{name}, line {line}: {error}; perhaps a quote is not closed") from error
    except (KeyError, ValueError, OverflowError) as error:
        raise UserError(f"{name}, line {line}: time_start and time_end must be seconds") from error
