import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from indexing.budget import rows_in_memory
from indexing.command import KnnCommand
from indexing.job import PARTS, SearchResult, SearchSettings, close, run_search
from indexing.knn import main
from indexing.report import REPORT
from indexing.search import Rules
from indexing.supplied import import_features
from pipeline.dataset import ShardDataset
from pipeline.neighbours import NEIGHBOURS
from pipeline.settings import UserError
from pipeline.storage import open_storage
from tests.indexing.made import unit_vectors, write_npy, write_rows
from tests.indexing.oracle import all_neighbours

ROWS = 3000
STREAMED = SearchSettings(block=257, memory_gb=0.40055)
"""A budget that holds less than half of the features."""


def few(rows: int) -> np.ndarray:
    """Features with duplicates."""
    return unit_vectors(rows, 32)[np.random.default_rng(0).integers(0, rows, rows)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("made") / "shards", ROWS)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npy(tmp_path_factory.mktemp("made") / "vectors.npy", few(ROWS))


def search(
    shards: Path, vectors: Path, out: Path, settings: SearchSettings, rules: Rules | None = None, k: int = 5
) -> SearchResult:
    storage = open_storage(str(out))
    import_features(vectors, ShardDataset(shards), storage, {})
    return run_search(storage, settings, rules or Rules(k), {"k": k})


def check(result: SearchResult, rules: Rules) -> None:
    expected = all_neighbours(few(ROWS), rules)
    np.testing.assert_array_equal(result.rows, expected.rows)
    np.testing.assert_array_equal(result.similarity, expected.similarity)


@pytest.mark.parametrize("settings", [SearchSettings(), STREAMED])
def test_every_search_has_the_neighbours_of_a_full_sort(
    settings: SearchSettings, shards: Path, vectors: Path, tmp_path: Path
) -> None:
    result = search(shards, vectors, tmp_path, settings)
    check(result, Rules(5))
    assert result.recall is None
    assert result.rows.dtype == np.int32
    assert len(list((tmp_path / PARTS).glob("*.npz"))) == -(-ROWS // settings.block)
    close(open_storage(str(tmp_path)))
    assert not (tmp_path / PARTS).exists()


def test_the_streamed_search_holds_a_part() -> None:
    assert rows_in_memory(STREAMED.memory_gb, ROWS, 32, STREAMED.block, 5) < ROWS / 2


def test_groups_and_ceiling_are_kept(shards: Path, vectors: Path, tmp_path: Path) -> None:
    groups = np.arange(ROWS) // 100
    result = search(shards, vectors, tmp_path, SearchSettings(block=1000), Rules(3, 0.999, groups))
    check(result, Rules(3, 0.999, groups))


def test_a_query_with_too_few_neighbours_left_is_named(shards: Path, vectors: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 0 has only 0 neighbours that --max_similarity .* k = 5"):
        search(shards, vectors, tmp_path, SearchSettings(), Rules(5, max_similarity=-2.0))


def test_finished_blocks_of_other_settings_are_refused(shards: Path, vectors: Path, tmp_path: Path) -> None:
    search(shards, vectors, tmp_path, SearchSettings(), k=5)
    with pytest.raises(UserError, match=r"holds finished parts of another job: .*k = 5 \(recorded\), 6 \(now\)"):
        search(shards, vectors, tmp_path, SearchSettings(), k=6)


def test_approximate_search_reports_its_recall(shards: Path, vectors: Path, tmp_path: Path) -> None:
    settings = SearchSettings(approximate=True, probes=2)
    result = search(shards, vectors, tmp_path / "few", settings)
    expected = all_neighbours(few(ROWS), Rules(5)).rows
    share = np.mean([len(np.intersect1d(ours, exact)) / 5 for ours, exact in zip(result.rows, expected, strict=True)])
    assert result.recall == pytest.approx(share, abs=0.03)
    assert 0.05 < share < 0.95
    everything = search(shards, vectors, tmp_path / "all", settings.model_copy(update={"probes": 1000}))
    assert everything.recall == 1
    np.testing.assert_array_equal(everything.rows, expected)


def argv(shards: Path, vectors: Path, out: Path) -> list[str]:
    options = {"shards": shards, "features": vectors, "out": out, "search.block": 8, "gallery": 0}
    return [sys.executable, "-m", "indexing.knn", *(f"--{name}={value}" for name, value in options.items())]


def wait_for_blocks(out: Path, count: int, search: "subprocess.Popen[bytes]") -> list[Path]:
    """Wait until the running search has finished `count` blocks."""
    deadline = time.monotonic() + 60
    while len(finished := sorted((out / PARTS).glob("[0-9]*.npz"))) < count:
        assert search.poll() is None, search.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return finished


def knn_command(shards: Path, vectors: Path, out: Path) -> KnnCommand:
    return KnnCommand.model_validate(
        {"shards": shards, "features": vectors, "out": out, "gallery": 0, "search": SearchSettings(block=8)}
    )


def test_a_killed_search_continues_with_its_finished_blocks(shards: Path, vectors: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    search = subprocess.Popen(argv(shards, vectors, out), stderr=subprocess.PIPE)
    finished = wait_for_blocks(out, 5, search)
    os.kill(search.pid, signal.SIGKILL)
    search.communicate()
    assert not (out / NEIGHBOURS).exists()
    with np.load(finished[0]) as part:
        columns = dict(part)
    np.savez(finished[0], **{**columns, "seconds": np.float64(1e6)})  # to see that this block is not searched again
    main(knn_command(shards, vectors, out))
    main(knn_command(shards, vectors, tmp_path / "undisturbed"))
    assert (out / NEIGHBOURS).read_bytes() == (tmp_path / "undisturbed" / NEIGHBOURS).read_bytes()
    assert json.loads((out / REPORT).read_text())["search_seconds"] > 1e6
    assert sorted(path.name for path in out.iterdir()) == ["features.parquet", NEIGHBOURS, REPORT]


def test_a_full_disk_is_one_sentence_and_room_completes_the_search(
    shards: Path, vectors: Path, small_disk: Path
) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1_650_000))
    with pytest.raises(UserError, match=r"cannot write to .*No space left on device; finished parts are kept"):
        search(shards, vectors, small_disk / "out", SearchSettings(block=1000))
    filler.unlink()
    check(search(shards, vectors, small_disk / "out", SearchSettings(block=1000)), Rules(5))


def test_an_object_store_holds_the_table(shards: Path, vectors: Path, bucket: str) -> None:
    out = f"{bucket}/neighbours"
    values = {"shards": shards, "features": vectors, "out": out, "gallery": 2, "search": SearchSettings(block=1500)}
    main(KnnCommand.model_validate(values))
    storage = open_storage(out)
    assert storage.files() == ["features.parquet", "gallery.html", "gallery.png", NEIGHBOURS, REPORT]
    assert not storage.files(PARTS)
    with storage.open(NEIGHBOURS) as stream:
        rows = np.stack(pq.read_table(stream)["neighbours"].to_numpy())
    np.testing.assert_array_equal(rows, all_neighbours(few(ROWS), Rules(5)).rows)
