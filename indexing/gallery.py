"""Queries beside their neighbours, like the paper's figure 11: one self-contained HTML page, and a PNG."""

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


class GalleryRow(NamedTuple):
    """A row of the gallery: the query, its neighbours and their similarities."""

    query: int
    rows: list[int]
    similarity: list[float]


def random_queries(count: int, rows: int) -> list[int]:
    """Up to `count` row numbers, always the same ones, in order."""
    return sorted(np.random.default_rng(0).choice(rows, min(count, rows), replace=False).tolist())


def gallery_rows(queries: Iterable[int], rows: NDArray[np.int32], similarity: NDArray[np.float32]) -> list[GalleryRow]:
    """The rows of the table for some queries."""
    return [GalleryRow(query, rows[query].tolist(), similarity[query].tolist()) for query in queries]


def tile(dataset: ShardDataset, row: int, heading: str, edge: str = "") -> Tile:
    """The center of a sample's (middle) frame, `TILE` pixels square, with its class and key."""
    frame = dataset.frame(row, int(dataset.num_frames[row]) // 2)
    with Image.open(io.BytesIO(frame.tobytes())) as image:
        picture = ImageOps.fit(image.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)
    label = int(dataset.label[row])
    name = dataset.manifest.classes[label] if label >= 0 else "without class"
    return Tile(picture, f"{heading}\n{name}\nrow {row}: {dataset.keys[row]}", edge)


def tiles(dataset: ShardDataset, row: GalleryRow) -> list[Tile]:
    """The query, then its neighbours with their similarities; edges are green if the class is the same."""
    result = [tile(dataset, row.query, "query")]
    for neighbour, similarity in zip(row.rows, row.similarity, strict=True):
        labels = int(dataset.label[row.query]), int(dataset.label[neighbour])
        edge = "gray" if min(labels) < 0 else ("green" if labels[0] == labels[1] else "red")
        result.append(tile(dataset, neighbour, f"{similarity:.3f}", edge))
    return result


def page(
    dataset: ShardDataset,
    rows: NDArray[np.int32],
    similarity: NDArray[np.float32],
    report: dict[str, Any],
    count: int,
) -> str:
    """The HTML page: figures of `report`, `count` random queries, extreme ones, and the most popular image."""
    few = max(1, count // 3)
    popular = report["most_popular_row"]
    nearest = similarity[:, 0]
    sections = [
        (
            "Drawn at random",
            "Edges: green for the query's class, red for others.",
            random_queries(count, len(rows)),
        ),
        ("Least similar nearest neighbour", "Images unlike all others.", np.argsort(nearest)[:few].tolist()),
        (
            "Most similar nearest neighbour",
            "Duplicates appear here; --max_similarity excludes them.",
            np.argsort(-nearest, kind="stable")[:few].tolist(),
        ),
        (
            "Most popular image",
            f"Row {popular} is a neighbour of {report['most_popular_row_appears']} images, including these.",
            np.flatnonzero((rows == popular).any(axis=1))[:few].tolist(),
        ),
    ]
    return render(
        Path(__file__).with_name("gallery.html"),
        title=f"Neighbours of {Path(dataset.folder).name}",
        subtitle=f"Features by weights with file hash {report['weights_hash'][:12]}, {report['metric']} similarity, "
        f"{report['search']} search.",
        report=report,
        sections=[
            (heading, note, [tiles(dataset, row) for row in gallery_rows(queries, rows, similarity)])
            for heading, note, queries in sections
        ],
    )


def sheet(dataset: ShardDataset, rows: Sequence[GalleryRow]) -> bytes:
    """PNG bytes of a contact sheet with a query and its neighbours in each row."""
    return contact_sheet([Row("", tiles(dataset, row)) for row in rows])
