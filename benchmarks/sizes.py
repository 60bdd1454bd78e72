"""`make bench-sizes`: disk space of shards per frame and per sample, from finished datasets."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
from pydantic import model_validator

from benchmarks.result import report
from pipeline.dataset import INDEX, read_manifest
from pipeline.settings import Command, UserError, run_command

Figures = dict[str, float]


class SizesBenchmark(Command):
    """Measure the bytes of shards of clips, of images or of both, including everything beside the JPEGs."""

    program: ClassVar[str] = "python -m benchmarks.sizes"

    clips: Path | None = None
    """Folder of a shard dataset of clips."""
    images: Path | None = None
    """Folder of a shard dataset of images."""
    out: Path = Path("benchmarks/results/sizes.json")
    """Result file."""

    @model_validator(mode="after")
    def _has_dataset(self) -> "SizesBenchmark":
        if self.clips is None and self.images is None:
            raise ValueError("give --clips, --images or both: folders that `make shards` wrote")
        return self


def measure(folder: Path, media: str) -> Figures:
    """Samples, frames, and mean sizes in bytes of a dataset.

    Raises:
        UserError: it is not a finished, non-empty dataset of `media`.
    """
    manifest = read_manifest(folder)
    if manifest.media != media or manifest.layout != "frames" or not manifest.samples:
        raise UserError(
            f"{folder} holds {manifest.samples} samples of {manifest.media} in layout {manifest.layout}; "
            f"--{media} needs {media} in layout frames"
        )
    sizes = pq.read_table(folder / INDEX, columns=["frame_size"])["frame_size"].combine_chunks().values.to_numpy()
    shard_bytes = sum(shard.bytes for shard in manifest.shards)
    indices = sum((folder / shard.file).with_suffix(".idx").stat().st_size for shard in manifest.shards)
    return {
        "samples": manifest.samples,
        "frames": manifest.frames,
        "jpeg_bytes_a_frame": float(np.mean(sizes)),
        "shard_bytes_a_frame": shard_bytes / manifest.frames,
        "index_bytes_a_sample": (folder / INDEX).stat().st_size / manifest.samples,
        "idx_bytes_a_sample": indices / manifest.samples,
    }


def main(command: SizesBenchmark) -> None:
    """Measure, print and write."""
    given = {"clips": command.clips, "images": command.images}
    figures = {media: measure(folder, media) for media, folder in given.items() if folder is not None}
    message = (
        "{jpeg_bytes_a_frame:.0f} B a JPEG, {shard_bytes_a_frame:.0f} B a frame in shards; "
        "{index_bytes_a_sample:.0f} B of index.parquet and {idx_bytes_a_sample:.0f} B of .idx a sample"
    )
    rows = [(f"{result['samples']:.0f} {media}", message.format(**result)) for media, result in figures.items()]
    report(command.out, dict(figures), rows, "Sizes on disk")


if __name__ == "__main__":
    run_command(SizesBenchmark, main)
