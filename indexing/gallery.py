"""Queries beside their neighbours, like the paper's figure 11: one HTML page without outside files, and a PNG."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.dataset import ShardDataset
from pipeline.report.contact_sheet import Row, Tile, contact_sheet
from pipeline.report.page import render

TILE = 128


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
    """The center of a sample's (middle) frame, `TILE` pixels square."""
    frame = dataset.frame(row, int(dataset.num_frames[row]) // 2)
    with Image.open(io.BytesIO(frame.tobytes())) as image:
        return ImageOps.fit(image.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)


def class_name(dataset: ShardDataset, row: int) -> str:
    """Name of a sample's class, empty without one."""
    label = int(dataset.label[row])
    return dataset.manifest.classes[label] if label >= 0 else ""


def edge_color(dataset: ShardDataset, query: int, row: int) -> str:
    """Name of the color of a neighbour's edge: of its query's class, of another, or unknown."""
    labels = int(dataset.label[query]), int(dataset.label[row])
    return "gray" if min(labels) < 0 else ("green" if labels[0] == labels[1] else "red")


def tiles(dataset: ShardDataset, row: Shown) -> list[Tile]:
    """The query, and its neighbours with their similarities."""
    shown = [("query", row.query, "")]
    for number, similarity in zip(row.rows, row.similarity, strict=True):
        shown.append((f"{similarity:.3f}", number, edge_color(dataset, row.query, number)))
    captions = [
        "\n".join(filter(None, (heading, class_name(dataset, number), f"row {number}: {dataset.keys[number]}")))
        for heading, number, _ in shown
    ]
    return [
        Tile(tile(dataset, number), caption, edge) for (_, number, edge), caption in zip(shown, captions, strict=True)
    ]


def _facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [
        (f"{report['images']:,}", "images"),
        (str(report["k"]), "neighbours of an image"),
        (f"{report['similarity_quantiles']['0.5']:.3f}", "median similarity"),
        (f"{report['most_popular_row_appears']} times", "most popular image appears"),
    ]
    if report["same_class_rate"] is not None:
        rate, chance = report["same_class_rate"], report["same_class_rate_by_chance"]
        facts.append((f"{100 * rate:.1f} % (chance {100 * chance:.1f} %)", "of the query's class"))
    if report["recall"] is not None:
        facts.append((f"{report['recall']:.3f}", "recall of the approximate search"))
    return facts


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
    nearest = similarity[:, 0]
    sections = [
        ("Drawn at random", "Edges: green of the query's class, red of another.", random_queries(count, len(rows))),
        ("Nearest neighbour least similar", "Images that resemble no other.", np.argsort(nearest)[:few].tolist()),
        (
            "Nearest neighbour most similar",
            "Duplicates show here; --max_similarity leaves them out.",
            np.argsort(-nearest, kind="stable")[:few].tolist(),
        ),
        (
            "The most popular image",
            f"Row {popular} is a neighbour of {report['most_popular_row_appears']} images, of these among others.",
            np.flatnonzero((rows == popular).any(axis=1))[:few].tolist(),
        ),
    ]
    return render(
        Path(__file__).with_name("gallery.html"),
        title=f"Neighbours of {Path(dataset.folder).name}",
        subtitle=f"Features by weights with file hash {report['weights_hash'][:12]}, {report['metric']} similarity, "
        f"{report['search']} search.",
        facts=_facts(report),
        sections=[
            (heading, note, [tiles(dataset, row) for row in shown(queries, rows, similarity)])
            for heading, note, queries in sections
        ],
    )


def sheet(dataset: ShardDataset, lines: Sequence[Shown]) -> bytes:
    """PNG bytes of a table: a query and its neighbours on each line."""
    return contact_sheet([Row("", tiles(dataset, line)) for line in lines])
