"""Tables of clips, as CSV, TSV or JSON, with the names of columns that published datasets use."""

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from pipeline.settings import UserError

_DELIMITERS = ",;\t"
_STATED_DELIMITER = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""First line by which spreadsheets state the delimiter."""
_PATHS = ("path", "file", "file_path", "filepath", "file_name", "filename", "video_path", "clip_path", "image_path")
_IDS = ("video_id", "video_uid", "youtube_id", "ytid", "vid", "video", "clip", "image", "video_name", "clip_name", "id")
_STARTS = "start start_time time_start t_start start_s start_sec clip_start video_start_sec start_timestamp"
_ENDS = "end end_time time_end t_end end_s end_sec clip_end video_end_sec stop_timestamp"
_COLUMNS = {
    "name": (*_PATHS, *_IDS),
    "class": ("template", "class", "class_name", "label", "label_name", "category"),
    "start": tuple(_STARTS.split()),
    "end": tuple(_ENDS.split()),
    "split": ("split", "subset"),
}
"""Column names by what they mean, in order of preference; case is ignored, and - and blanks are as _."""
_KINETICS = {"youtube_id", "time_start", "time_end"}
"""Columns of a table of clips that are already cut."""
HEADER = "path<tab>class<tab>start<tab>end"
_LATEST_S = 10_000_000
_SECONDS = re.compile(r"\d+(\.\d*)?(e[+-]?\d+)?|\.\d+", re.IGNORECASE | re.ASCII)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)", re.ASCII)

Cut = tuple[int, int | None]
"""Start and end of a part of a clip, in milliseconds from its beginning; an end of None is that of the file."""


class Row(NamedTuple):
    """One input of a list or table, or a part of one."""

    where: str
    """File and line, for messages."""
    name: str
    """Path without ./ and //, or a file name without its extension."""
    class_name: str = ""
    split: str = ""
    cut: Cut | None = None
    is_path: bool = True
    """Whether `name` was given as a path."""
    stems: tuple[str, ...] = ()
    """File names without extension that a clip of Kinetics may have instead of `name`."""


def milliseconds(text: str, where: str) -> int:
    """A time such as `62.5` or `00:01:02.5`.

    Raises:
        UserError: it is something else, negative, or not finite; the message calls it `where`.
    """
    clock = _CLOCK.fullmatch(text)
    if clock or _SECONDS.fullmatch(text):
        hours, minutes, seconds = clock.groups(default="0") if clock else ("0", "0", text)
        time_s = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        if time_s <= _LATEST_S:
            return round(1000 * time_s)
    raise UserError(
        f"{where}: {text!r} is not a time; allowed are seconds (62.5) and hours:minutes:seconds (00:01:02.5)"
    )


def make_cut(start: int, end: int | None, where: str) -> Cut | None:
    """The part of a clip between two times in milliseconds; None if it is the whole clip.

    Raises:
        UserError: the end is not after the start; the message calls the line `where`.
    """
    if end is not None and end <= start:
        raise UserError(f"{where}: the end, {end / 1000:g} s, is not after the start, {start / 1000:g} s")
    return None if (start, end) == (0, None) else (start, end)


class _Fields:
    """Which columns of a table mean what."""

    def __init__(self, columns: Iterable[str]) -> None:
        given = {re.sub(r"[ -]", "_", column.strip().lower()): column for column in columns}
        self.columns = {
            meaning: next(given[name] for name in names if name in given)
            for meaning, names in _COLUMNS.items()
            if not given.keys().isdisjoint(names)
        }
        self._is_kinetics = given.keys() >= _KINETICS
        self._has_paths = not given.keys().isdisjoint(_PATHS)

    def row(self, values: Mapping[str, str], where: str) -> Row:
        """The input that a row of the table names.

        Raises:
            UserError: it names none, or has a time that is none; the message calls the line `where`.
        """
        name, class_name, start, end, split = (
            values.get(self.columns[meaning], "") if meaning in self.columns else "" for meaning in _COLUMNS
        )
        if not name:
            raise UserError(f"{where}, column {self.columns['name']}: is empty")
        name = str(PurePosixPath(name))
        timed = self._is_kinetics
        start_ms = milliseconds(start, f"{where}, column {self.columns['start']}") if start or timed else 0
        end_ms = milliseconds(end, f"{where}, column {self.columns['end']}") if end or timed else None
        cut = make_cut(start_ms, end_ms, where)
        if not self._is_kinetics or end_ms is None:
            return Row(where, name, class_name, split, cut, self._has_paths)
        stems = (f"{name}_{start_ms // 1000:06d}_{end_ms // 1000:06d}", name)
        return Row(where, name, class_name, split, None, False, stems)


def _without_names(where: str) -> str:
    return f"{where} has no column of files; allowed are {', '.join(_COLUMNS['name'])}"


def _delimiter(header: str) -> str:
    return max(_DELIMITERS, key=header.count)


def is_header(line: str) -> bool:
    """Whether this is the first line of a table: one that states its delimiter, or names a column of paths or ids."""
    try:
        cells = next(csv.reader([line], delimiter=_delimiter(line), skipinitialspace=True), [])
    except csv.Error:  # a very long line
        return False
    return bool(_STATED_DELIMITER.fullmatch(line)) or "name" in _Fields(cells).columns


def csv_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Rows of a table with commas, semicolons or tabs between columns.

    Raises:
        UserError: no column names the files, or a row cannot be read; names the line.
    """
    lines = iter(lines)
    header = next(lines, "")
    stated = _STATED_DELIMITER.fullmatch(header)
    above = 1 if stated else 0
    header = next(lines, "") if stated else header
    delimiter = stated[1] if stated else _delimiter(header)
    table = csv.reader(itertools.chain([header], lines), delimiter=delimiter, skipinitialspace=True, strict=True)
    line = above + 1
    try:
        columns = next(table, [])
        fields = _Fields(columns)
        if "name" not in fields.columns:
            raise UserError(_without_names(name))
        while True:
            line = above + table.line_num + 1  # where the row begins; with an open quote it spans several lines
            row = next(table, None)
            if row is None:
                return
            if any("\n" in value or "\r" in value for value in row):
                raise csv.Error("a value spans several lines")
            values = [value.strip() for value in row]
            if any(values[len(columns) :]):
                raise UserError(f"{name}, line {line}: has more columns than the first line; put quotes around commas")
            if any(values):
                yield fields.row(dict(zip(columns, values, strict=False)), f"{name}, line {line}")
    except csv.Error as error:
        raise UserError(f"{name}, line {line}: {error}; perhaps a quote is not closed") from error


def _json_values(lines: Iterable[str], name: str) -> Iterator[tuple[Any, str]]:
    """The items of an array, or the values of JSON Lines, with file and line; holds about one item in memory.

    Raises:
        UserError: it is not JSON; the message calls it `name`.
    """
    lines = iter(lines)
    decode = json.JSONDecoder().raw_decode
    text, position, line = "", 0, 1
    while True:
        begin = position
        while position < len(text) and text[position] in "[], \t\r\n":
            position += 1
        line += text.count("\n", begin, position)
        try:
            value, end = decode(text, position)
        except json.JSONDecodeError as error:
            fault = f"{name}, line {line + text.count(chr(10), position, error.pos)}: is not JSON: {error.msg}"
            text, position = text[position:], 0
            more = "".join(_at_least(len(text), lines))  # twice as much: perhaps it ends there
            if not more and text:
                raise UserError(fault) from error
            if not more:
                return
            text += more
            continue
        yield value, f"{name}, line {line}"
        line += text.count("\n", position, end)
        position = end


def _at_least(size: int, lines: Iterator[str]) -> Iterator[str]:
    """Lines with at least one character, and `size` of them if there are as many."""
    taken = 0
    for line in lines:
        yield line
        taken += len(line)
        if taken >= size:
            return


def _activitynet(videos: Mapping[str, Any], name: str) -> Iterator[Row]:
    """Rows of ActivityNet's JSON, whose videos are files `v_ID`."""
    fields = _Fields(("id", "label", "start", "end", "subset"))
    for video, facts in videos.items():
        for part in facts["annotations"]:
            start, end = map(str, part["segment"])
            values = {"id": video, "label": part["label"], "start": start, "end": end, "subset": facts["subset"]}
            yield fields.row(values, f"{name}, video {video}")


def json_rows(lines: Iterable[str], name: str) -> Iterator[Row]:
    """Rows of an array of objects, of JSON Lines, or of ActivityNet's annotations.

    Raises:
        UserError: it is not JSON, or an object cannot be read; names the line.
    """
    fields: dict[tuple[str, ...], _Fields] = {}
    for value, where in _json_values(lines, name):
        if not isinstance(value, dict):
            raise UserError(f'{where}: is not an object, such as {{"id": "42", "label": "run"}}')
        if isinstance(value.get("database"), dict):
            try:
                yield from _activitynet(value["database"], name)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{name}: a video lacks its subset, or a label or segment") from error
            continue
        columns = tuple(value)
        if columns not in fields:
            fields[columns] = _Fields(columns)
        if "name" not in fields[columns].columns:
            raise UserError(_without_names(where))
        yield fields[columns].row({key: "" if item is None else str(item) for key, item in value.items()}, where)
