"""Samples as rows of a contact sheet."""

from pipeline.preview.strips import Strip
from pipeline.report.contact_sheet import Row, Tile, shrink, spread
from pipeline.report.palette import ROLES

_FRAMES_PER_CLIP, _IMAGES_PER_ROW = 10, 6
_FRAME, _IMAGE = (168, 150), (280, 210)


def sample_row(strip: Strip) -> Row:
    """A clip in order of time, with the first triplet in the colors of its roles, or a single image."""
    if not strip.draws:
        return Row("", [Tile(shrink(strip.pictures[0], _IMAGE), f"{strip.class_name}\n{strip.key}")])
    roles = dict(zip(strip.draws[0].frames, strip.draws[0].roles, strict=True))
    others = [frame for frame in strip.pictures if frame not in roles]
    tiles = []
    for frame in sorted([*roles, *(others[number] for number in spread(len(others), _FRAMES_PER_CLIP - len(roles)))]):
        role = roles.get(frame, "")
        caption = ", ".join(filter(None, (role, f"{strip.times_s[frame]:.2f} s")))
        tiles.append(Tile(shrink(strip.pictures[frame], _FRAME), caption, ROLES.get(role, "")))
    facts = f"{strip.num_frames} frames, {strip.duration_s:.1f} s, {strip.size[0]} x {strip.size[1]}"
    return Row(f"{strip.class_name}: {strip.key}, {facts}", tiles)


def arrange(rows: list[Row]) -> list[Row]:
    """The rows of the sheet: one for each clip, or several images in each."""
    if any(row.heading for row in rows):
        return rows
    tiles = [tile for row in rows for tile in row.tiles]
    return [Row("", tiles[start : start + _IMAGES_PER_ROW]) for start in range(0, len(tiles), _IMAGES_PER_ROW)]
