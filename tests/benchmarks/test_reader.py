import json
from pathlib import Path

from benchmarks.reader import ReaderBenchmark, main
from pipeline.reader.views import ViewSettings


def test_result_says_what_was_measured_and_where(clip_dataset: Path, tmp_path: Path) -> None:
    views = ViewSettings(global_size=64, local_size=32, local_crops=2)
    out = tmp_path / "reader.json"
    main(ReaderBenchmark(shards=clip_dataset, out=out, batch_size=4, steps=2, threads=1, views=views))
    result = json.loads(out.read_text())
    assert result["samples_per_second"] > 0
    assert result["host_microseconds_per_sample"] > 0
    assert (result["batch_size"], result["threads"], result["global_size"]) == (4, 1, 64)
    assert result["machine"]["cores"] > 0
    assert "torch" in result["versions"]
