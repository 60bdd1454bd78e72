"""The contact sheet: the same samples in one picture, a row for each clip or a tile for each image."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from pipeline.preview.strips import ROLES, Draw, Strip
from pipeline.preview.style import INK, PAPER, ROLE_COLOURS, SOFT

WIDTH = 1800
_MARGIN, _GAP = 32, 12
_LINE = "#d9dee3"
_NAME_WIDTH = 230
_TRIPLET_WIDTH = 570
_LANE = 22
_TALLEST = 220
"""Height of a picture at most."""
_TILES = 6


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def fit(text: str, width: float, size: int) -> str:
    """`text`, shortened to `width` pixels at a font size."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _paste(sheet: Image.Image, picture: Image.Image, place: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """Shrink a picture into `box`, put its upper left corner at `place`, and return its size there."""
    scale = min(box[0] / picture.width, box[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), place)
    return size


def _lane(pen: ImageDraw.ImageDraw, draw: Draw, num_frames: int, left: int, right: int, y: int) -> None:
    places = [left + (right - left) * (frame + 0.5) / num_frames for frame in draw.frames]
    pen.line((left, y, right, y), fill=_LINE)
    pen.line((places[0], y, places[2], y), fill="#b3bbc3", width=3)
    for role, x in zip(ROLES, places, strict=True):
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=ROLE_COLOURS[role])


def clip_row(strip: Strip) -> Image.Image:
    """A clip: its name, its frames over the lanes of the draws, and the frames of the first draw."""
    left = _MARGIN + _NAME_WIDTH + _GAP
    right = WIDTH - _MARGIN - _TRIPLET_WIDTH - 2 * _GAP
    each = (_TRIPLET_WIDTH - _GAP) // 3
    row = Image.new("RGB", (WIDTH, 2 * _TALLEST + _LANE * len(strip.draws)), PAPER)
    pen = ImageDraw.Draw(row)
    for line, (text, size, colour) in enumerate(
        [
            (strip.class_name or "without class", 19, INK),
            (strip.key, 14, SOFT),
            (f"{strip.num_frames} frames, {strip.duration_s:.1f} s", 14, SOFT),
            (f"{strip.size[0]} x {strip.size[1]}", 14, SOFT),
        ]
    ):
        pen.text((_MARGIN, (0, 28, 48, 68)[line]), fit(text, _NAME_WIDTH, size), colour, _font(size))
    bottom = 0
    for place, frame in enumerate(strip.even):
        x = left + round((right - left) * place / len(strip.even))
        following = left + round((right - left) * (place + 1) / len(strip.even))
        bottom = max(bottom, _paste(row, strip.pictures[frame], (x, 0), (following - x - 2, _TALLEST))[1])
    for number, draw in enumerate(strip.draws):
        y = bottom + 16 + _LANE * number
        _lane(pen, draw, strip.num_frames, left, right, y)
    bottom = max(bottom + 16 + _LANE * len(strip.draws), 92)
    x = right + 2 * _GAP
    for role, frame in zip(ROLES, strip.draws[0].frames, strict=True):
        width, height = _paste(row, strip.pictures[frame], (x, 5), (each, _TALLEST))
        pen.rectangle((x, 0, x + width - 1, 4), fill=ROLE_COLOURS[role])
        pen.text((x, height + 8), f"{role}, {strip.times_s[frame]:.2f} s", SOFT, _font(13))
        bottom = max(bottom, height + 28)
        x += each + _GAP // 2
    return row.crop((0, 0, WIDTH, bottom + 20))


def image_tile(strip: Strip) -> Image.Image:
    """An image with its class and key."""
    width = (WIDTH - 2 * _MARGIN - (_TILES - 1) * _GAP) // _TILES
    tile = Image.new("RGB", (width, round(width * 0.75) + 56), PAPER)
    _paste(tile, strip.pictures[0], (0, 0), (width, round(width * 0.75)))
    pen = ImageDraw.Draw(tile)
    top = tile.height - 52
    pen.text((0, top), fit(strip.class_name or "without class", width, 16), INK, _font(16))
    pen.text((0, top + 22), fit(strip.key, width, 13), SOFT, _font(13))
    return tile


def part(strip: Strip) -> Image.Image:
    """A sample as it stands on the sheet."""
    return clip_row(strip) if strip.draws else image_tile(strip)


def compose(title: str, subtitle: str, parts: Sequence[Image.Image]) -> Image.Image:
    """The sheet with its parts, rows of full width or tiles."""
    across = 1 if not parts or parts[0].width == WIDTH else _TILES
    rows = [parts[start : start + across] for start in range(0, len(parts), across)]
    top = 124
    sheet = Image.new("RGB", (WIDTH, top + sum(max(p.height for p in row) for row in rows) + _MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, 26), fit(title, WIDTH - 2 * _MARGIN, 32), INK, _font(32))
    pen.text((_MARGIN, 70), fit(subtitle, WIDTH - 2 * _MARGIN - 320, 16), SOFT, _font(16))
    x = WIDTH - _MARGIN
    for role in ROLES[::-1] if across == 1 and parts else ():
        x -= round(_font(16).getlength(role))
        pen.text((x, 70), role, SOFT, _font(16))
        pen.ellipse((x - 20, 74, x - 8, 86), fill=ROLE_COLOURS[role])
        x -= 44
    for row in rows:
        for place, picture in enumerate(row):
            sheet.paste(picture, (0 if across == 1 else _MARGIN + place * (picture.width + _GAP), top))
        top += max(picture.height for picture in row)
    return sheet
