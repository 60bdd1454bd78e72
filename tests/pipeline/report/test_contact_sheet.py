import io

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFont

from pipeline.report.contact_sheet import EDGE, Row, Tile, blank, contact_sheet, fit, shrink, spread
from pipeline.report.palette import LIGHT


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def box(pixels: np.ndarray, color: str) -> tuple[int, ...]:
    """Left, top, width and height of all pixels of a color."""
    y, x = np.nonzero((pixels == np.array(ImageColor.getrgb(color))).all(-1))
    return int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1


def test_pictures_are_in_columns_under_headings_with_their_edges() -> None:
    def tile(color: str, width: int, edge: str = "") -> Tile:
        return Tile(Image.new("RGB", (width, 80), color), "a caption\nof two lines", edge)

    rows = [
        Row("one", [tile("#ff0000", 100, "green"), tile("#00ff00", 60)]),
        Row("two", [tile("#0000ff", 40), tile("#ffff00", 90), Tile(blank((30, 80)), "empty")]),
    ]
    pixels = pixels_of(contact_sheet(rows, "title", "note"))
    red, green, blue, yellow = (box(pixels, color) for color in ("#ff0000", "#00ff00", "#0000ff", "#ffff00"))
    edge = box(pixels, LIGHT["green"])
    assert edge[2:] == (100, 80)
    assert red == (edge[0] + EDGE, edge[1] + EDGE, 100 - 2 * EDGE, 80 - 2 * EDGE)
    assert blue == (edge[0], yellow[1], 40, 80)
    assert green[:2] == (yellow[0], edge[1])
    assert yellow[0] > edge[0] + 100, "a column is as wide as its widest picture"
    assert blue[1] > edge[1] + 80 + 32, "captions have room"
    assert box(pixels, LIGHT["wash"])[2:] == (30, 80), "an empty tile"


def test_a_sheet_without_rows_has_a_title() -> None:
    assert len(np.unique(pixels_of(contact_sheet([], "title")))) > 2


def test_shrunk_pictures_keep_their_aspect() -> None:
    assert shrink(Image.new("RGB", (320, 240)), (100, 100)).size == (100, 75)
    assert shrink(Image.new("RGB", (1000, 1)), (100, 100)).size == (100, 1)


def test_long_names_are_truncated() -> None:
    shown = fit("n" * 500, 200, 14)
    assert shown.endswith("…")
    assert ImageFont.load_default(14).getlength(shown) <= 200
    assert fit("short", 200, 14) == "short"


@pytest.mark.parametrize("count", [0, 1, 2, 24, 25, 1000])
def test_spread_is_even_and_has_both_ends(count: int) -> None:
    numbers = spread(count, 24)
    assert len(numbers) == min(count, 24)
    assert [*numbers[:1], *numbers[-1:]] == ([0, count - 1] if count else [])
    assert len(numbers) < 2 or np.ptp(np.diff(numbers)) <= 1
