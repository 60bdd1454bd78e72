"""Contact sheets: rows of captioned pictures with colored edges in one PNG."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.report.palette import LIGHT

EDGE = 3
_MARGIN, _GAP = 24, 8
_MIN_WIDTH = 640


class Tile(NamedTuple):
    """A picture of a contact sheet."""

    picture: Image.Image
    caption: str = ""
    """Lines below the picture."""
    edge: str = ""
    """Name of the edge's color; empty for no edge."""


class Row(NamedTuple):
    """Tiles side by side below a heading, which may be empty."""

    heading: str
    tiles: Sequence[Tile]


def spread(count: int, most: int) -> list[int]:
    """At most `most` evenly spaced numbers from 0 to `count - 1`, with both ends."""
    return [int(number) for number in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def blank(size: tuple[int, int]) -> Image.Image:
    """An empty tile of size (width, height)."""
    return Image.new("RGB", size, LIGHT["wash"])


def shrink(picture: Image.Image | NDArray[np.uint8], box: tuple[int, int]) -> Image.Image:
    """The picture, or pixels (H, W, 3), resized to the largest size that fits into `box` (width, height)."""
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    scale = min(box[0] / picture.width, box[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def fit(text: str, width: float, size: int) -> str:
    """`text`, truncated to `width` pixels at a font size."""
    font = ImageFont.load_default(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def contact_sheet(rows: Sequence[Row], title: str = "", note: str = "") -> bytes:
    """PNG bytes of a grid of tiles; each column is as wide as its widest picture."""
    across = max((len(row.tiles) for row in rows), default=0)
    widths = [max(row.tiles[i].picture.width for row in rows if i < len(row.tiles)) for i in range(across)]
    width = max(_MIN_WIDTH, sum(widths) + _GAP * (across - 1))
    parts = [_line(title, width, 26, "ink"), _line(note, width, 15, "soft")]
    for row in rows:
        parts += [_line(row.heading, width, 15, "ink"), _tiles(row.tiles, widths, width)]
    sheet = Image.new("RGB", (width + 2 * _MARGIN, sum(part.height for part in parts) + 2 * _MARGIN), LIGHT["paper"])
    top = _MARGIN
    for part in parts:
        sheet.paste(part, (_MARGIN, top))
        top += part.height
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _line(text: str, width: int, size: int, color: str) -> Image.Image:
    """A line of text; its height is 0 if there is no text."""
    line = Image.new("RGB", (width, bool(text) * (size + size // 2)), LIGHT["paper"])
    ImageDraw.Draw(line).text((0, 0), fit(text, width, size), LIGHT[color], ImageFont.load_default(size))
    return line


def _tiles(tiles: Sequence[Tile], widths: Sequence[int], width: int) -> Image.Image:
    """A row of tiles in columns of `widths`."""
    tallest = max((tile.picture.height for tile in tiles), default=0)
    lines = max((len(tile.caption.splitlines()) for tile in tiles), default=0)
    row = Image.new("RGB", (width, tallest + 18 * lines + 20), LIGHT["paper"])
    left = 0
    for tile, column in zip(tiles, widths, strict=False):
        row.paste(tile.picture, (left, 0))
        if tile.edge:
            box = (left, 0, left + tile.picture.width - 1, tile.picture.height - 1)
            ImageDraw.Draw(row).rectangle(box, outline=LIGHT[tile.edge], width=EDGE)
        for number, line in enumerate(tile.caption.splitlines()):
            row.paste(_line(line, column, 12, "soft" if number else "ink"), (left, tallest + 4 + 18 * number))
        left += column + _GAP
    return row
