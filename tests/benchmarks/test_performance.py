import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.performance import document
from pipeline.settings import UserError

ROOT = Path(__file__).parents[2]
HERE = {"machine": {"cpu": "Some CPU", "cores": 16, "python": "3.12.1"}, "versions": {"torch": "2.13.0", "ray": "2.60"}}
READER = {
    **{"samples_per_second": 87.25, "samples_per_core_second": 44.04, "host_microseconds_per_sample": 61.7},
    **{"threads": 2, "batch_size": 32, "global_size": 224, "local_size": 96, "local_crops": 8},
}
TRAIN = {
    **{"architecture": "small", "batch_size": 4, "prototypes": 65536, "time_ratio": 0.754, "memory_ratio": 0.426},
    **{"seconds": {"ours": 3.25, "reference": 4.31}, "peak_gb": {"ours": 1.91, "reference": 4.48}},
}
STEP = {"seconds": 0.2, "peak_gb": 61.23, "mfu": 0.413, "projected_hours": 20.81}
GPU: dict[str, Any] = {
    "device": "cuda",
    "gpu": {"name": "NVIDIA H200", "memory_gb": 150.1, "cuda": "13.0"},
    "seconds": 401.6,
    "stages": [
        {"name": "step, ViT-B, batch 128, compiled", "kind": "step", "status": "done", "figures": STEP, "reason": ""},
        {"name": "exact neighbours", "kind": "neighbours", "status": "failed", "figures": {}, "reason": "a\nb | c"},
    ],
}


def write(folder: Path, **results: dict[str, Any]) -> None:
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps({**result, **HERE}))


def test_the_committed_document_is_that_of_the_committed_results() -> None:
    assert (ROOT / "docs" / "performance.md").read_text() == document(ROOT / "benchmarks" / "results"), (
        "run `make performance`"
    )


def test_what_is_not_measured_says_so(tmp_path: Path) -> None:
    text = document(tmp_path)
    for file in ("shards", "reader", "train", "knn", "evaluation"):
        assert f"Not measured: there is no {file}.json yet." in text
    assert "No GPU was available: nothing here was measured." in text
    assert "| step, ViT-B, batch 128, compiled | no GPU was available | paper: 30 h on 4 GPUs, 417.57 GB" in text
    assert "| reader | no GPU was available | aim: 2,500 samples/s |" in text


def test_results_are_shown_beside_references(tmp_path: Path) -> None:
    write(tmp_path, reader=READER, train=TRAIN)
    text = document(tmp_path)
    assert "| reader | 87.2 samples/s, 44.0 a core-second | authors: 27 samples/s a core |" in text
    assert "Batch 32, 2 threads, 2 + 8 crops of 224 and 96 pixels." in " ".join(text.split())
    assert "bytes" not in text.split("## Reader")[1].split("##")[0], "no row without a measurement"
    assert "| host work a sample | 62 microseconds | aim: at most 100 |" in text
    assert "| seconds | 3.25, reference 4.31 | authors, ViT-S at batch 4: 6.0 |" in text
    assert "| peak memory | 1.91 GB, reference 4.48 GB | authors, the same: 3.5 GB |" in text
    assert "| time / reference | 0.75 | aim: at most 0.9 |" in text
    assert "Some CPU, 16 cores; Python 3.12.1, torch 2.13.0, ray 2.60" in text
    assert "Not measured: there is no shards.json yet." in text


def test_a_gpu_has_its_figures_and_its_failures(tmp_path: Path) -> None:
    write(tmp_path, gpu=GPU)
    text = document(tmp_path)
    assert "No GPU was available" not in text
    assert "NVIDIA H200 with 150 GB, CUDA 13.0." in " ".join(text.split())
    row = "| step, ViT-B, batch 128, compiled | 200 ms, 61.2 GB, MFU 41 %, the paper's epochs in 20.8 h | paper: 30 h"
    assert row in text
    assert "| exact neighbours | failed: b \\| c |  |" in text
    assert "| all of it | 402 s | aim: under 480 s |" in text


def test_results_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    write(tmp_path, gpu={**GPU, "device": "cpu"})
    with pytest.raises(UserError, match=r"gpu\.json is of a dry run"):
        document(tmp_path)
    (tmp_path / "gpu.json").write_text("{")
    with pytest.raises(UserError, match=r"gpu\.json is not valid JSON"):
        document(tmp_path)
