from pathlib import Path

from benchmarks.workers import make_large, measure
from pipeline.clips import ClipDataset


def test_the_index_is_large_and_its_memory_is_not_the_workers(tmp_path: Path) -> None:
    folder = make_large(tmp_path / "large", 5_000, frames=20)
    clips = ClipDataset(folder)
    assert len(clips) == 5_000
    assert len({clips.clip(row).key for row in (0, 999, 4_999)}) == 3
    figures = measure("ClipDataset", "fork", folder, workers=1, visits=200)
    assert figures["pickle_bytes"] < 2000
    assert figures["shared_index_mb"] > 5_000 * 20 * 12 / 1e6
    assert 0 < figures["own_mb"] < figures["all_processes_mb"]
