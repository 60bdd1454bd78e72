"""A contact sheet: rows of captioned pictures with colored edges in one PNG."""

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from pipeline.report.palette import LIGHT

EDGE = 3
_MARGIN, _GAP = 24, 8
_TITLE, _NOTE, _HEADING, _CAPTION = 26, 15, 15, 12
"""Font sizes."""
_LEAST_WIDTH = 640


class Tile(NamedTuple):
    """A picture of a contact sheet."""

    picture: Image.Image
    caption: str = ""
    """Lines below the picture."""
    edge: str = ""
    """Name of the edge's color; without one there is no edge."""


class Row(NamedTuple):
    """Tiles side by side, below a heading if it is not empty."""

    heading: str
    tiles: Sequence[Tile]


def blank(size: tuple[int, int]) -> Image.Image:
    """An empty place of (width, height)."""
    return Image.new("RGB", size, LIGHT["wash"])


def shrink(picture: Image.Image, box: tuple[int, int]) -> Image.Image:
    """The picture at the size (width, height) at which it just fits into `box`."""
    scale = min(box[0] / picture.width, box[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def fit(text: str, width: float, size: int) -> str:
    """`text`, shortened to `width` pixels at a font size."""
    font = ImageFont.load_default(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def contact_sheet(rows: Sequence[Row], title: str = "", note: str = "") -> bytes:
    """PNG bytes of a grid of tiles whose columns are as wide as their widest picture; pictures keep their size."""
    across = max((len(row.tiles) for row in rows), default=0)
    widths = [max(row.tiles[i].picture.width for row in rows if i < len(row.tiles)) for i in range(across)]
    heights = [max((tile.picture.height for tile in row.tiles), default=0) for row in rows]
    lines = [max((tile.caption.count("\n") + bool(tile.caption) for tile in row.tiles), default=0) for row in rows]
    head = sum(bool(text) * (size + 14) for text, size in ((title, _TITLE), (note, _NOTE)))
    places = [_heading(row) + height + 4 + 16 * count for row, height, count in zip(rows, heights, lines, strict=True)]
    width = max(_LEAST_WIDTH, 2 * _MARGIN + sum(widths) + _GAP * (across - 1))
    sheet = Image.new("RGB", (width, 2 * _MARGIN + head + sum(places) + 2 * _GAP * len(rows)), LIGHT["paper"])
    pen = ImageDraw.Draw(sheet)

    def write(text: str, left: int, top: int, room: int, size: int, color: str) -> None:
        pen.text((left, top), fit(text, room, size), LIGHT[color], ImageFont.load_default(size))

    top = _MARGIN
    for text, size, color in ((title, _TITLE, "ink"), (note, _NOTE, "soft")):
        if text:
            write(text, _MARGIN, top, width - 2 * _MARGIN, size, color)
            top += size + 14
    for row, height, place in zip(rows, heights, places, strict=True):
        write(row.heading, _MARGIN, top, width - 2 * _MARGIN, _HEADING, "ink")
        left, upper = _MARGIN, top + _heading(row)
        for tile, room in zip(row.tiles, widths, strict=False):
            sheet.paste(tile.picture, (left, upper))
            if tile.edge:
                corner = left + tile.picture.width - 1, upper + tile.picture.height - 1
                pen.rectangle((left, upper, *corner), outline=LIGHT[tile.edge], width=EDGE)
            for number, line in enumerate(tile.caption.split("\n")):
                write(line, left, upper + height + 4 + 16 * number, room, _CAPTION, "soft" if number else "ink")
            left += room + _GAP
        top += place + 2 * _GAP
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _heading(row: Row) -> int:
    return _HEADING + 10 if row.heading else 0
