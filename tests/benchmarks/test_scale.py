import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.scale import (
    PretrainRun,
    ScaleCommand,
    demands,
    first_limit,
    main,
    page,
    roofline,
    search_job,
    shard_job,
    step_rate,
)
from pipeline.settings import UserError
from training.backbone.vit import VitSettings
from training.model import TCoReSettings

SIZES = {"jpeg_bytes_a_frame": 1000.0, "shard_bytes_a_frame": 1100.0, "index_bytes_a_sample": 50.0}
RESULTS: dict[str, dict[str, Any]] = {
    "shards": {
        "clips": 100,
        "images": 1000,
        "seconds": {"clip job, 2 workers, within tasks": [10.0, 30.0, 20.0]},
        "stage_seconds": {"images": {"tasks": 4.0}},
    },
    "sizes": {"clips": SIZES, "images": SIZES},
    "listing": {"inputs": {"1000": {"seconds": 1.0}, "100000": {"seconds": 10.0}}},
    "knn": {"microseconds_a_query_by_rows": {"500": 9.0, "1000": 50.0}, "machine": {"cores": 4}},
    "reader": {"samples_per_core_second": 10.0},
    "counts": {
        name: {
            "clips": 64,
            "flops": 989e12 * 0.6 * seconds,
            "compiled": {"step": {"bytes": 3.35e10}},
            "eager": {"step": {"launches": 2500}},
        }
        for name, seconds in (("small", 0.005), ("base", 0.02))
    },
}
RUN = PretrainRun(
    "a", samples=100, epochs=2, batch=64, parameters=10**9, rate=50.0, frames=2.0, frame_bytes=1e6, dataset_bytes=1e9
)


def command(folder: Path, **options: Any) -> ScaleCommand:
    for name, content in RESULTS.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return ScaleCommand.model_validate({"results": folder, "out": folder / "page.md", **options})


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    assert Path("docs/scale.md").read_text() == page(ScaleCommand()), "run `make scale`"


def test_demands_of_two_machines_by_hand(tmp_path: Path) -> None:
    asked = command(tmp_path, gpus=4, cores=10, network_gb=20.0, storage_gb=3.0, storage_reads=500.0)
    needed, available = np.array(list(demands(RUN, asked, 2, core_rate=10.0).values())).T
    gradients = 2 * 1 / 2 * 4 * 400 / 64  # GB/s: a step lasts 64 / 400 s
    np.testing.assert_allclose(needed, [4 * 50 / 10, gradients, 800 * (1e6 + 3840) / 1e9, 800, 2 * 400 / 100])
    np.testing.assert_allclose(available, [10, 20, 3, 500, 3])


def test_the_first_limit_is_the_fewest_machines_that_are_short(tmp_path: Path) -> None:
    asked = command(tmp_path, gpus=4, nodes=3, storage_reads=900.0)
    assert first_limit(RUN, "shared storage: reads/s of frames", asked, core_rate=1e9) == 12
    assert first_limit(RUN, "CPU cores of a machine, if they decode", asked, core_rate=1e9) is None


def test_jobs_by_hand(tmp_path: Path) -> None:
    asked = command(tmp_path, clips=2560, images=10_000, nodes=1, cores=64, clip_kb=100.0, storage_gb=1.0)
    core_seconds, times = shard_job(asked, "clips")
    assert core_seconds == pytest.approx(2560 * 2 * 20 / 100)
    assert times == {
        "32 workers for 32 shards": pytest.approx(1024 / 32),
        "storage": pytest.approx(2560 * (1e5 + 20 * 1100 + 50) / 1e9),
        "listing on one core": pytest.approx(0.256),
    }
    core_seconds, times = search_job(asked)
    assert core_seconds == pytest.approx(10_000**2 * 50e-6 * 4 / 1000)
    assert times == {"8 cores for 2 blocks": pytest.approx(core_seconds / 8)}


def test_a_step_takes_as_long_as_its_bytes_or_its_products(tmp_path: Path) -> None:
    asked = command(tmp_path)
    clips, seconds = roofline(asked, "small", "H200")
    assert clips == 64
    assert seconds == pytest.approx((0.01 * 3.35 / 4.8, 0.005))
    rates = [step_rate(asked, TCoReSettings(backbone=VitSettings(architecture=name))) for name in ("small", "base")]
    assert rates == pytest.approx([64 / 0.01, 64 / 0.02])


def test_the_command_writes_the_page_and_names_what_is_missing(tmp_path: Path) -> None:
    asked = command(tmp_path)
    main(asked)
    assert "from 8 GPUs on" in (tmp_path / "page.md").read_text()
    (tmp_path / "reader.json").unlink()
    with pytest.raises(UserError, match="has no samples_per_core_second: write it with `make bench-reader`"):
        main(asked)
