"""Pieces of report.html: style, embedded pictures and clips, line charts, tables."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

COLOURS = ("#2f5d8a", "#c0702b", "#4b8b5a", "#7c5a99", "#8a8a3a", "#5b6672")
"""One for each checkpoint, in order, again from the start if there are more."""

STYLE = """
:root { --ink: #1d2329; --soft: #66707a; --line: #e1e5e9; --wash: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 40px 32px 80px; max-width: 1180px; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 48px 0 12px; letter-spacing: -0.005em; }
p { color: var(--soft); margin: 4px 0 12px; max-width: 78ch; }
.warn { border-left: 3px solid #b5483a; padding: 6px 12px; background: #fbf3f1; color: var(--ink); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; font-size: 12.5px; color: var(--soft); border-bottom-color: #b9c0c7; }
th:first-child, td:first-child { text-align: left; }
td.best { font-weight: 650; }
.scroll { overflow-x: auto; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 8px; }
.cards { display: flex; flex-wrap: wrap; gap: 16px; margin: 24px 0 8px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 14px 20px; min-width: 190px; }
.card b { display: block; font-size: 30px; line-height: 1.2; font-weight: 600; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
figure { margin: 0; }
figcaption { font-size: 12.5px; color: var(--soft); padding: 3px 0 0; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 14px; margin: 8px 0 20px; }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; margin: 4px 0 10px; }
img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--wash); }
details { border-bottom: 1px solid var(--line); }
details > summary, .heads { padding: 8px 0; display: flex; gap: 18px; align-items: center; }
details > summary { cursor: pointer; }
details > summary::before { content: ""; border: solid var(--soft); border-width: 0 1.5px 1.5px 0; padding: 2.5px;
  transform: rotate(-45deg); }
details[open] > summary::before { transform: rotate(45deg); }
.heads { padding-left: 25px; }
.name { flex: 1; font-weight: 550; overflow-wrap: anywhere; }
.number { width: 64px; text-align: right; font-variant-numeric: tabular-nums; }
details > div { padding: 4px 0 18px; }
svg text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #66707a; }
pre { background: var(--wash); padding: 12px 16px; border-radius: 6px; overflow-x: auto; font-size: 12.5px; }
"""


def colour(number: int) -> str:
    """Colour of checkpoint `number`."""
    return COLOURS[number % len(COLOURS)]


def per_cent(value: float | None) -> str:
    """A fraction in per cent with one decimal; a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def still(picture: Image.Image, caption: str) -> str:
    """A figure with a JPEG in it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=78)
    return _figure(buffer.getvalue(), "jpeg", caption)


def moving(pictures: Sequence[Image.Image], caption: str, milliseconds: int = 120) -> str:
    """A figure with an endless animated WebP in it."""
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "WEBP", save_all=True, append_images=list(pictures[1:]), duration=milliseconds, loop=0, quality=60
    )
    return _figure(buffer.getvalue(), "webp", caption)


def _figure(data: bytes, kind: str, caption: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    shown = escape(caption)
    return f'<figure><img src="{source}" alt="{shown}"><figcaption>{shown}</figcaption></figure>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of ready HTML cells; the first column is text."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def chart(curves: Mapping[str, Sequence[float]], x_title: str = "share of the sequence") -> str:
    """Lines of scores (fractions) over equally spaced points, as SVG with axes and a grid."""
    width, height = 640, 260
    left, right, top, bottom = 44, 12, 12, 40
    known = [value for values in curves.values() for value in values if not math.isnan(value)]
    if not known:
        return ""
    high = min(1.0, 0.1 * (int(10 * max(known)) + 1))
    low = max(0.0, min(0.1 * int(10 * min(known)), high - 0.1))

    def place(share: float, value: float) -> tuple[float, float]:
        x = left + share * (width - left - right)
        return x, top + (high - value) / (high - low) * (height - top - bottom)

    parts = [f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="scores">']
    for step in range(round(10 * low), round(10 * high) + 1):
        x, y = place(0, step / 10)
        parts.append(f'<line x1="{x:.1f}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e1e5e9"/>')
        parts.append(f'<text x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{10 * step}</text>')
    for share, label in ((0, "first"), (0.5, x_title), (1, "last")):
        anchor = {0: "start", 0.5: "middle", 1: "end"}[share]
        x, _ = place(share, low)
        parts.append(f'<text x="{x:.1f}" y="{height - 14}" text-anchor="{anchor}">{escape(label)}</text>')
    for number, values in enumerate(curves.values()):
        parts.append(_line([place(i / max(1, len(values) - 1), v) for i, v in enumerate(values)], number))
    return "".join(parts) + "</svg>"


def sparkline(curves: Sequence[Sequence[float]]) -> str:
    """Lines of scores (fractions) over time, small and without axes, from 0 below to 1 above."""
    width, height = 170, 30
    lines = [
        _line([(2 + i * (width - 4) / max(1, len(v) - 1), 2 + (1 - y) * (height - 4)) for i, y in enumerate(v)], number)
        for number, v in enumerate(curves)
    ]
    frame = f'<rect width="{width}" height="{height}" fill="#f6f7f9" rx="3"/>'
    opening = f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">'
    return f"{opening}{frame}{''.join(lines)}</svg>"


def _line(points: Sequence[tuple[float, float]], number: int) -> str:
    known = " ".join(f"{x:.1f},{y:.1f}" for x, y in points if not math.isnan(y))
    return (
        f'<polyline points="{known}" fill="none" stroke="{colour(number)}" stroke-width="2" stroke-linejoin="round"/>'
    )
