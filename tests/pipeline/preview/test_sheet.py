import numpy as np
from PIL import Image, ImageColor, ImageFont

from pipeline.preview.sheet import WIDTH, clip_row, compose, fit, part
from pipeline.preview.strips import Draw, Strip
from pipeline.preview.style import ROLE_COLOURS


def strip(draws: list[Draw], size: tuple[int, int] = (320, 240)) -> Strip:
    """Frame k is a grey of level 10 k."""
    return Strip(
        key="key",
        class_name="riding a very tall horse through a very narrow street",
        source="source",
        size=size,
        num_frames=20,
        duration_s=10.0,
        times_s={frame: frame / 2 for frame in range(20)},
        pictures={frame: Image.new("RGB", size, (10 * frame,) * 3) for frame in range(20)},
        even=list(range(20)) if draws else [],
        draws=draws,
    )


def places_of(picture: Image.Image, role: str) -> np.ndarray:
    """(n, 2) x and y of the pixels of a role's colour."""
    colour = np.array(ImageColor.getrgb(ROLE_COLOURS[role]))
    y, x = np.nonzero((np.asarray(picture) == colour).all(-1))
    return np.stack([x, y], axis=1)


def test_draws_are_marked_below_their_frames() -> None:
    row = clip_row(strip([Draw("epoch 0", (6, 9, 13))]))
    pixels = np.asarray(row)
    top = pixels[1]
    starts = np.array([np.flatnonzero((top == 10 * frame).all(-1))[0] for frame in range(1, 20)])
    assert (np.diff(starts) > 0).all()
    for role, frame in zip(ROLE_COLOURS, (6, 9, 13), strict=True):
        marked = places_of(row, role)
        dot = marked[(marked[:, 1] > 30) & (marked[:, 0] < starts[-1] + 60)]
        centre = dot[:, 0].mean()
        assert starts[frame - 1] < centre < starts[frame], "frame k begins at starts[k - 1]"


def test_the_first_draw_is_shown_large_under_its_colours() -> None:
    row = clip_row(strip([Draw("epoch 0", (6, 9, 13)), Draw("epoch 1", (5, 8, 12))]))
    pixels = np.asarray(row)
    for role, frame in zip(ROLE_COLOURS, (6, 9, 13), strict=True):
        bar = places_of(row, role)
        bar = bar[bar[:, 1] == 0]
        assert len(bar) > 150
        assert (pixels[60, bar[:, 0].min() + 5] == 10 * frame).all()


def test_portraits_do_not_stretch_the_sheet() -> None:
    draws = [Draw("epoch 0", (6, 9, 13))]
    assert clip_row(strip(draws, (256, 455))).height < 300
    assert clip_row(strip(draws, (455, 256))).width == WIDTH


def test_rows_and_tiles_fill_the_sheet() -> None:
    rows = [clip_row(strip([Draw("epoch 0", (6, 9, 13))])) for _ in range(3)]
    sheet = compose("title", "subtitle", rows)
    assert sheet.width == WIDTH
    assert sheet.height >= sum(row.height for row in rows)
    lowest = np.asarray(sheet.crop((0, sheet.height - rows[0].height - 32, WIDTH, sheet.height - 32)))
    assert np.array_equal(lowest, np.asarray(rows[0])), "nothing covers the last row"
    tiles = [part(strip([])) for _ in range(8)]
    assert compose("title", "subtitle", tiles).height < 2.6 * tiles[0].height + 160
    assert compose("title", "no samples", []).width == WIDTH


def test_long_names_are_shortened_to_their_place() -> None:
    text = "n" * 500
    shown = fit(text, 200, 14)
    assert shown.endswith("…")
    assert ImageFont.load_default(14).getlength(shown) <= 200
    assert fit("short", 200, 14) == "short"
