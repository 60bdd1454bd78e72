import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexing.gallery import TILE, page, random_queries, sheet, shown
from indexing.report import describe
from pipeline.dataset import ShardDataset
from tests.indexing.made import write_rows

SAME, OTHER = (0x2E, 0x9E, 0x5B), (0xD2, 0x60, 0x3A)


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
    text = page(dataset, rows, similarity, report, 3)
    assert not re.search(r'(src|href)="(?!data:)', text), "nothing is loaded from elsewhere"
    assert "Features by weights with file hash 0123456789ab, cosine similarity, exact search." in text
    lines = text.split('<div class="row">')[1:4]
    for query, line in zip(random_queries(3, len(dataset)), lines, strict=True):
        named = [int(row) for row in re.findall(r'title="row (\d+):', line)]
        assert named == [query, *rows[query]]
        assert all(f"{value:.3f}" in line for value in similarity[query])
        pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall('base64,([^"]+)', line)]
        assert [picture.size for picture in pictures] == [(TILE, TILE)] * 3


def test_sheet_frames_neighbours_by_class(image_dataset: Path) -> None:
    dataset, rows, similarity, _ = made(image_dataset)
    picture = np.asarray(Image.open(io.BytesIO(sheet(dataset, shown([4], rows, similarity)))))
    for neighbour, colour in zip(rows[4], picture_edges(picture), strict=True):
        assert colour == (SAME if dataset.label[neighbour] == dataset.label[4] else OTHER)


def picture_edges(picture: np.ndarray) -> list[tuple[int, ...]]:
    """Colours of the frames of the first line, from left to right."""
    line = picture[34 + TILE // 2]
    starts = [x for x in range(1, len(line)) if tuple(line[x]) in (SAME, OTHER) and tuple(line[x - 1]) == (255,) * 3]
    return [tuple(int(value) for value in line[x]) for x in starts]


def test_names_are_escaped(tmp_path: Path) -> None:
    dataset = ShardDataset(write_rows(tmp_path / "a<b", 4, name="<script>{}"))
    rows = np.array([[1], [2], [3], [0]], np.int32)
    similarity = np.ones((4, 1), np.float32)
    report = {"images": 4, "k": 1, "recall": 0.5, "weights_hash": "<i>", "metric": "cosine", "search": "exact"}
    text = page(dataset, rows, similarity, {**report, **describe(rows, similarity, dataset.label)}, 2)
    for mark in ("<script>", "a<b", "<i>"):
        assert mark not in text


@pytest.mark.parametrize(("count", "expected"), [(3, 3), (50, 10)])
def test_random_queries_are_always_the_same(count: int, expected: int) -> None:
    drawn = random_queries(count, 10)
    assert len(set(drawn)) == expected
    assert drawn == sorted(random_queries(count, 10))
