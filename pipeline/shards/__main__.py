"""`python -m pipeline.shards`."""

import time
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from pipeline.dataset import REJECTS
from pipeline.settings import Command, UserError, run_command
from pipeline.shards.frames import FrameSettings
from pipeline.shards.images import ImageSettings
from pipeline.shards.job import JobFacts, run_job
from pipeline.shards.plan import default_samples_per_shard, plan_shards
from pipeline.shards.shard import ShardTask
from pipeline.shards.sources import Media, list_sources


class ShardsCommand(Command):
    """Decode a folder of clips (Kinetics) or images (ImageNet) into WebDataset shards with one index.

    The first folder below DATA is the class. Inputs that cannot be used are listed in OUT/rejects.parquet and stop
    nothing. Interrupt it at any time: the same command continues and gives the same bytes. With RAY_ADDRESS set it
    joins that Ray cluster, else it uses this machine.
    """

    program: ClassVar[str] = "python -m pipeline.shards"

    data: Path
    """Folder with one sub-folder per class."""
    out: Path
    """Folder for the dataset; new, or holding the same job unfinished or finished."""
    media: Media | None = None
    """What to take when DATA holds both clips and images."""
    name: str = Field("shard", pattern=r"^[A-Za-z0-9_-]+$")
    """Shard files are called NAME-000000.tar, NAME-000001.tar, ..."""
    split: str = "train"
    """Recorded in dataset.json."""
    samples_per_shard: int | None = Field(None, ge=1)
    """Inputs a shard, which is the unit of parallel work and of resuming. Default: a sixteenth of the inputs, but
    between 4 and 256 clips (256 are about 100 MB) or 32 and 1024 images."""
    seed: int = Field(0, ge=0)
    """Seed of the order in which inputs are spread over shards."""
    max_reject_fraction: float = Field(0.25, ge=0, le=1)
    """End with an error if a larger share of the inputs was rejected; the dataset is complete without them."""
    workers: int | None = Field(None, ge=1)
    """Processes on this machine; default all cores. A cluster uses all its CPUs."""
    frames: FrameSettings = FrameSettings()
    """How frames are taken from clips."""
    images: ImageSettings = ImageSettings()
    """How images are taken."""


def main(command: ShardsCommand) -> int:
    """Run the job and print its summary; returns the exit status."""
    started = time.perf_counter()
    listing = list_sources(command.data, command.media)
    per_shard = command.samples_per_shard or default_samples_per_shard(listing.media, len(listing.sources))
    plans, rejects = plan_shards(listing.sources, command.name, per_shard, command.seed)
    settings = command.frames if listing.media == "clips" else command.images
    task = ShardTask(command.data.resolve(), command.out.resolve(), settings)
    facts = JobFacts(command.name, command.split, command.seed, per_shard)
    classes = f"{len(listing.classes)} class folders" if listing.classes else "no class folder (label -1)"
    print(f"{len(listing.sources)} {listing.media} in {classes} -> {len(plans)} shards")
    if listing.ignored:
        print("ignored files: " + ", ".join(f"{count} {kind}" for kind, count in sorted(listing.ignored.items())))
    manifest, reasons, written = run_job(listing, plans, rejects, task, facts, command.workers)
    seconds = time.perf_counter() - started
    gigabytes = sum(shard.bytes for shard in manifest.shards) / 1e9
    did = f"in {seconds:.1f} s ({manifest.inputs / seconds:.1f} {listing.media}/s)" if written else "already there"
    print(f"{manifest.samples} samples, {manifest.frames} frames, {gigabytes:.3f} GB in {command.out} {did}")
    if reasons:
        by_reason = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        print(f"rejects: {by_reason}; see {command.out / REJECTS}")
    if manifest.rejects > command.max_reject_fraction * manifest.inputs:
        raise UserError(
            f"{manifest.rejects} of {manifest.inputs} inputs were rejected, more than max_reject_fraction = "
            f"{command.max_reject_fraction:g}; the dataset is complete without them. If that is expected, raise "
            "--max_reject_fraction and run the same command again"
        )
    return 0


if __name__ == "__main__":
    run_command(ShardsCommand, main)
