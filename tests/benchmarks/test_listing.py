import json
import math
from pathlib import Path

from benchmarks.listing import ListingBenchmark, main, write_list
from pipeline.shards.plan import default_samples_per_shard
from pipeline.shards.sources import list_sources, open_data


def test_the_list_has_as_many_different_clips_in_classes(tmp_path: Path) -> None:
    write_list(tmp_path / "clips.txt", 900)
    sources = list(list_sources(open_data(str(tmp_path / "clips.txt"))).sources)
    assert len({source.key for source in sources}) == 900
    assert len({source.class_name for source in sources}) == 400
    assert {source.media for source in sources} == {"clips"}


def test_result_has_time_memory_and_size_of_each_plan(tmp_path: Path) -> None:
    out = tmp_path / "listing.json"
    main(ListingBenchmark(inputs=(6000, 1000), out=out))
    result = json.loads(out.read_text())["inputs"]
    assert list(result) == ["1000", "6000"]
    for inputs in (1000, 6000):
        assert result[str(inputs)]["shards"] == math.ceil(inputs / default_samples_per_shard("clips", inputs))
    assert 2 < result["6000"]["plan_bytes"] / result["1000"]["plan_bytes"] < 9
    for figures in result.values():
        assert figures["cpu_seconds"] > 0
        assert figures["seconds"] > 0
        assert 20 < figures["peak_mb"] < 1000
