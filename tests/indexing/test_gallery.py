import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from indexing.gallery import TILE, gallery_rows, page, random_queries, sheet
from indexing.report import describe
from pipeline.dataset import ShardDataset
from pipeline.report.palette import LIGHT
from tests.indexing.made import write_rows
from tests.pipeline.report.test_page import HOSTILE, Page, image_of


def made(image_dataset: Path) -> tuple[ShardDataset, np.ndarray, np.ndarray, dict[str, object]]:
    dataset = ShardDataset(image_dataset)
    rows = (np.arange(len(dataset), dtype=np.int32)[:, None] + np.array([1, 3], np.int32)) % len(dataset)
    similarity = np.linspace(0.9, 0.1, rows.size, dtype=np.float32).reshape(rows.shape)
    report = {
        "images": len(dataset),
        "k": 2,
        "recall": None,
        "weights_hash": "0123456789abcdef",
        "metric": "cosine",
        "search": "exact",
    }
    return dataset, rows, similarity, {**report, **describe(rows, similarity, dataset.label)}


def test_page_shows_each_query_beside_its_neighbours(image_dataset: Path) -> None:
    dataset, rows, similarity, report = made(image_dataset)
    seen = Page(page(dataset, rows, similarity, report, 3))
    assert "Features by weights with file hash 0123456789ab, cosine similarity, exact search." in seen.text
    figures = seen.all("figure")
    for line, query in enumerate(random_queries(3, len(dataset))):
        for rank, row in enumerate([query, *rows[query]]):
            lines = (figures[3 * line + rank]["title"] or "").split("\n")
            assert lines[0] == (f"{similarity[query, rank - 1]:.3f}" if rank else "query")
            assert lines[-1] == f"row {row}: {dataset.keys[row]}"
            same = dataset.label[row] == dataset.label[query]
            edge = figures[3 * line + rank].get("style")
            assert edge == (f"--edge: var(--{'green' if same else 'red'})" if rank else None)
    assert {image_of(picture["src"]).size for picture in seen.all("img")} == {(TILE, TILE)}


def test_sheet_has_edges_by_class(image_dataset: Path) -> None:
    dataset, rows, similarity, _ = made(image_dataset)
    pixels = np.asarray(Image.open(io.BytesIO(sheet(dataset, gallery_rows([4], rows, similarity)))))
    for neighbour in rows[4]:
        edge = "green" if dataset.label[neighbour] == dataset.label[4] else "red"
        assert (pixels == np.array(ImageColor.getrgb(LIGHT[edge]))).all(-1).sum() >= 2 * TILE


def test_names_are_escaped(tmp_path: Path) -> None:
    dataset = ShardDataset(write_rows(tmp_path / "a<b", 4, name="<script>{}"))
    rows = np.array([[1], [2], [3], [0]], np.int32)
    similarity = np.ones((4, 1), np.float32)
    report = {"images": 4, "k": 1, "recall": 0.5, "weights_hash": HOSTILE, "metric": "cosine", "search": HOSTILE}
    seen = Page(page(dataset, rows, similarity, {**report, **describe(rows, similarity, dataset.label)}, 2))
    for message in ("Neighbours of a<b", "<script>0", HOSTILE):
        assert message in seen.text


@pytest.mark.parametrize(("count", "expected"), [(3, 3), (50, 10)])
def test_random_queries_are_always_the_same(count: int, expected: int) -> None:
    drawn = random_queries(count, 10)
    assert len(set(drawn)) == expected
    assert drawn == sorted(random_queries(count, 10))
