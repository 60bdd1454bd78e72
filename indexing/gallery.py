"""Queries beside their neighbours, like the paper's figure 11: one HTML page without outside files, and a PNG."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pipeline.dataset import ShardDataset

TILE = 128
_SAME, _OTHER, _UNKNOWN = "#2e9e5b", "#d2603a", "#9aa3ad"
_STYLE = """
:root{color-scheme:light dark;--text:#1c2126;--soft:#66707a;--page:#fff;--line:#e3e7ea;--card:#f6f7f8}
@media(prefers-color-scheme:dark){:root{--text:#e8eaec;--soft:#98a2ab;--page:#15181b;--line:#2b3136;--card:#1d2226}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--page);max-width:1080px;margin:2rem auto;
padding:0 1rem}h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .2rem}
p{color:var(--soft);margin:.2rem 0 1rem}.cards{display:flex;flex-wrap:wrap;gap:.6rem;margin:1.2rem 0}
.card{background:var(--card);border-radius:8px;padding:.6rem 1rem}
.card b{display:block;font-size:1.25rem}.card span{color:var(--soft);font-size:.8rem}
.row{display:flex;gap:.6rem;padding:.7rem 0;border-top:1px solid var(--line);overflow-x:auto}
figure{margin:0;width:128px;flex:none}figure.query{margin-right:1.2rem}img{width:128px;height:128px;border-radius:6px;
display:block;outline:3px solid var(--edge);outline-offset:-3px}figcaption{font-size:.74rem;line-height:1.35;
margin-top:.3rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:var(--soft)}
figcaption b{color:var(--text)}
"""


class Shown(NamedTuple):
    """A row of the gallery: the query, its neighbours and their similarities."""

    query: int
    rows: list[int]
    similarity: list[float]


def random_queries(count: int, rows: int) -> list[int]:
    """Up to `count` rows, always the same ones, in order."""
    return sorted(np.random.default_rng(0).choice(rows, min(count, rows), replace=False).tolist())


def shown(queries: Iterable[int], rows: NDArray[np.int32], similarity: NDArray[np.float32]) -> list[Shown]:
    """The rows of the table for some queries."""
    return [Shown(query, rows[query].tolist(), similarity[query].tolist()) for query in queries]


def tile(dataset: ShardDataset, row: int) -> Image.Image:
    """The centre of a sample's (middle) frame, `TILE` pixels square."""
    frame = dataset.frame(row, int(dataset.num_frames[row]) // 2)
    with Image.open(io.BytesIO(frame.tobytes())) as image:
        return ImageOps.fit(image.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)


def class_name(dataset: ShardDataset, row: int) -> str:
    """Name of a sample's class, empty without one."""
    label = int(dataset.label[row])
    return dataset.manifest.classes[label] if label >= 0 else ""


def edge_colour(dataset: ShardDataset, query: int, row: int) -> str:
    """Colour of a neighbour's frame: of its query's class, of another, or unknown."""
    labels = int(dataset.label[query]), int(dataset.label[row])
    return _UNKNOWN if min(labels) < 0 else (_SAME if labels[0] == labels[1] else _OTHER)


def _figure(dataset: ShardDataset, row: int, edge: str, heading: str, kind: str) -> str:
    stream = io.BytesIO()
    tile(dataset, row).save(stream, "JPEG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode()
    key, name = str(dataset.keys[row]), class_name(dataset, row)
    title = escape(f"row {row}: {key} ({name})", quote=True)
    return (
        f'<figure class="{kind}" style="--edge:{edge}" title="{title}"><img alt="{title}" '
        f'src="data:image/jpeg;base64,{data}"><figcaption><b>{escape(heading)}</b><br>{escape(name or key)}'
        "</figcaption></figure>"
    )


def _row(dataset: ShardDataset, row: Shown) -> str:
    figures = [_figure(dataset, row.query, "transparent", f"query, row {row.query}", "query")]
    for neighbour, similarity in zip(row.rows, row.similarity, strict=True):
        edge = edge_colour(dataset, row.query, neighbour)
        figures.append(_figure(dataset, neighbour, edge, f"{similarity:.3f}", "neighbour"))
    return f'<div class="row">{"".join(figures)}</div>'


def _cards(report: dict[str, Any]) -> str:
    values = {
        "images": f"{report['images']:,}",
        "neighbours of an image": str(report["k"]),
        "median similarity": f"{report['similarity_quantiles']['0.5']:.3f}",
        "most popular image appears": f"{report['most_popular_row_appears']} times",
    }
    if report["same_class_rate"] is not None:
        chance = report["same_class_rate_by_chance"]
        values["of the query's class"] = f"{100 * report['same_class_rate']:.1f} % (chance {100 * chance:.1f} %)"
    if report["recall"] is not None:
        values["recall of the approximate search"] = f"{report['recall']:.3f}"
    cards = (f'<div class="card"><b>{escape(v)}</b><span>{escape(name)}</span></div>' for name, v in values.items())
    return f'<div class="cards">{"".join(cards)}</div>'


def page(
    dataset: ShardDataset,
    rows: NDArray[np.int32],
    similarity: NDArray[np.float32],
    report: dict[str, Any],
    count: int,
) -> str:
    """The HTML page: figures of `report`, `count` queries drawn at random, odd ones, and the most popular image."""
    few = max(1, count // 3)
    popular = report["most_popular_row"]
    queries = np.flatnonzero((rows == popular).any(axis=1))[:few].tolist()
    sections = [
        ("Drawn at random", "Frames: green of the query's class, red of another.", random_queries(count, len(rows))),
        (
            "Nearest neighbour least similar",
            "Images that resemble no other.",
            np.argsort(similarity[:, 0])[:few].tolist(),
        ),
        (
            "Nearest neighbour most similar",
            "Duplicates show here; --max_similarity leaves them out.",
            np.argsort(-similarity[:, 0], kind="stable")[:few].tolist(),
        ),
        (
            "The most popular image",
            f"Row {popular} is a neighbour of {report['most_popular_row_appears']} images, of these among others.",
            queries,
        ),
    ]
    parts = []
    for heading, note, chosen in sections:
        lines = "".join(_row(dataset, row) for row in shown(chosen, rows, similarity))
        parts.append(f"<h2>{escape(heading)}</h2><p>{escape(note)}</p>{lines}")
    name = escape(f"Neighbours of {Path(dataset.folder).name}")
    made_from = (
        f"Features by weights with file hash {report['weights_hash'][:12]}, {report['metric']} similarity, "
        f"{report['search']} search."
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{_STYLE}</style></head><body><h1>{name}</h1>"
        f"<p>{escape(made_from)}</p>{_cards(report)}{''.join(parts)}</body></html>\n"
    )


def sheet(dataset: ShardDataset, lines: Sequence[Shown]) -> bytes:
    """PNG bytes of a table: a query and its neighbours on each line."""
    gap, head, text = 10, 34, 34
    k = len(lines[0].rows)
    width = (k + 1) * (TILE + gap) + 3 * gap
    canvas = Image.new("RGB", (width, head + len(lines) * (TILE + text) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    bold, plain = ImageFont.load_default(15), ImageFont.load_default(12)
    places = [gap] + [TILE + 4 * gap + i * (TILE + gap) for i in range(k)]
    for place, heading in zip(places, ["query", *(f"neighbour {i + 1}" for i in range(k))], strict=True):
        draw.text((place, 9), heading, "black", bold)
    for number, line in enumerate(lines):
        top = head + number * (TILE + text)
        captions = ["", *(f"{similarity:.3f}" for similarity in line.similarity)]
        for place, row, caption in zip(places, [line.query, *line.rows], captions, strict=True):
            canvas.paste(tile(dataset, row), (place, top))
            if caption:
                box = (place, top, place + TILE - 1, top + TILE - 1)
                draw.rectangle(box, outline=edge_colour(dataset, line.query, row), width=3)
            said = f"{caption}  {class_name(dataset, row) or dataset.keys[row]}".strip()
            draw.text((place, top + TILE + 4), _shortened(said, plain), "#444444", plain)
    stream = io.BytesIO()
    canvas.save(stream, "PNG")
    return stream.getvalue()


def _shortened(said: str, font: Any) -> str:  # noqa: ANN401 - Pillow has two kinds of fonts
    if font.getlength(said) <= TILE:
        return said
    while said and font.getlength(said + "...") > TILE:
        said = said[:-1]
    return said + "..."
