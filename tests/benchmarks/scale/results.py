"""Result files with round numbers, as the benchmarks write them."""

import json
from pathlib import Path
from typing import Any

SIZES = {"samples": 10, "frames": 200, "jpeg_bytes_a_frame": 1000.0, "shard_bytes_a_frame": 1100.0}
RESULTS: dict[str, dict[str, Any]] = {
    "shards.json": {
        "clips": 100,
        "images": 1000,
        "seconds": {"clip job, 2 workers, within tasks": [10.0, 30.0, 20.0]},
        "stage_seconds": {"images": {"tasks": 4.0}},
    },
    "sizes.json": {
        "clips": {**SIZES, "index_bytes_a_sample": 50.0},
        "images": {**SIZES, "jpeg_bytes_a_frame": 9000.0, "shard_bytes_a_frame": 9500.0, "index_bytes_a_sample": 7.0},
    },
    "listing.json": {
        "inputs": {"1000": {"seconds": 1.0, "peak_mb": 100.0}, "101000": {"seconds": 11.0, "peak_mb": 150.0}}
    },
    "knn.json": {"rows": 1000, "microseconds_a_query_by_rows": {"500": 9.0, "1000": 50.0}, "machine": {"cores": 4}},
    "evaluation.json": {
        "size": [32, 48],
        "threads": 2,
        "features, batched": 500.0,
        "propagation": 300.0,
        "boundary measure": 2.0,
    },
}


def write_results(folder: Path, **others: Any) -> Path:
    """Write `RESULTS`, and other files by their names without extension, to `folder`; None leaves a file out."""
    contents = RESULTS | {f"{name}.json": content for name, content in others.items()}
    for file, content in contents.items():
        if content is not None:
            (folder / file).write_text(json.dumps(content))
    return folder
