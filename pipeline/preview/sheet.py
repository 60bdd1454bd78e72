"""The same samples as rows of a contact sheet."""

from pipeline.preview.strips import ROLES, Strip
from pipeline.report.contact_sheet import Row, Tile, shrink, spread
from pipeline.report.palette import ROLES as ROLE_COLORS

_ACROSS = 10
"""Frames shown of a clip."""
_FRAME, _IMAGE = (168, 150), (280, 210)
_IMAGES_ACROSS = 6


def clip_row(strip: Strip) -> Row:
    """A clip in order of time: the frames of its first draw under the colors of their roles, and some others."""
    roles = dict(zip(strip.draws[0].frames, ROLES, strict=True))
    others = [frame for frame in strip.pictures if frame not in roles]
    tiles = []
    for frame in sorted([*roles, *(others[number] for number in spread(len(others), _ACROSS - len(roles)))]):
        role = roles.get(frame, "")
        caption = ", ".join(filter(None, (role, f"{strip.times_s[frame]:.2f} s")))
        tiles.append(Tile(shrink(strip.pictures[frame], _FRAME), caption, ROLE_COLORS.get(role, "")))
    facts = f"{strip.num_frames} frames, {strip.duration_s:.1f} s, {strip.size[0]} x {strip.size[1]}"
    return Row(f"{strip.class_name or 'without class'}: {strip.key}, {facts}", tiles)


def part(strip: Strip) -> Row:
    """A sample as it stands on the sheet."""
    if strip.draws:
        return clip_row(strip)
    return Row("", [Tile(shrink(strip.pictures[0], _IMAGE), f"{strip.class_name or 'without class'}\n{strip.key}")])


def arrange(parts: list[Row]) -> list[Row]:
    """The rows of the sheet: each clip has its own, images stand side by side."""
    if any(part.heading for part in parts):
        return parts
    tiles = [tile for part in parts for tile in part.tiles]
    return [Row("", tiles[start : start + _IMAGES_ACROSS]) for start in range(0, len(tiles), _IMAGES_ACROSS)]
