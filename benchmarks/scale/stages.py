"""What the stages beside pre-training cost: cores, time, bytes, files and memory. Pure arithmetic."""

import math
from typing import NamedTuple

from benchmarks.flops import forward_flops
from benchmarks.scale.figures import Figures
from benchmarks.scale.options import ClusterSettings, DataSettings
from pipeline.shards.plan import default_samples_per_shard
from pipeline.shards.sources import Media
from training.vit import VitSettings

HOUR = 3600.0
FEATURE_WIDTH = 384
"""Values of a ViT-S feature, which are kept as float16 and searched as float32."""
NEIGHBOURS = 5
"""Neighbours of an image (paper, section 4.1); a row number and a similarity of 4 bytes each."""
SEARCH_BLOCK, SEARCH_CORES = 8192, 4
"""Queries of a block and cores of the process that searches it: the defaults of `indexing.job.SearchSettings`."""
DAVIS_FRAMES, DAVIS_OBJECTS = 1999, 2
"""Frames of the 30 sequences of DAVIS-2017 val, and objects in one of them on average (61 in 30)."""
Listing = tuple[tuple[float, float, float], ...]


class Stage(NamedTuple):
    """Cost of a stage. `hours` is on the whole cluster; `memory` in bytes is that of its largest process."""

    name: str
    core_hours: float
    gpu_hours: float
    hours: float
    read: float
    written: float
    files: int
    memory: float | None

    @property
    def bandwidth(self) -> float:
        """Bytes a second between storage and all machines together."""
        return (self.read + self.written) / (HOUR * self.hours)


def plan_cost(listing: Listing, inputs: int) -> tuple[float, float]:
    """Seconds and bytes of memory of the plan of `inputs`: the line through the two measured listings next to it.

    `listing` holds (inputs, seconds, 10^6 bytes), two or more.
    """
    points = sorted(listing)
    upper = next((n for n, point in enumerate(points) if point[0] >= inputs), len(points))
    upper = min(max(upper, 1), len(points) - 1)
    low, high = points[upper - 1], points[upper]
    along = (inputs - low[0]) / (high[0] - low[0])
    seconds, megabytes = (max(0.0, low[n] + along * (high[n] - low[n])) for n in (1, 2))
    return seconds, 1e6 * megabytes


def shard_count(media: Media, inputs: int) -> int:
    """Shards that the job makes of so many inputs by default."""
    return math.ceil(inputs / default_samples_per_shard(media, inputs))


def makespan(tasks: int, task_seconds: float, workers: int) -> float:
    """Seconds of `tasks` equal tasks on `workers`: the last round may leave some idle."""
    return math.ceil(tasks / workers) * task_seconds


def shards_stage(
    name: str,
    media: Media,
    inputs: int,
    core_seconds: float,
    read: float,
    written: float,
    listing: Listing,
    cluster: ClusterSettings,
) -> Stage:
    """The shard job: its list is made by one core, each shard by one, and storage is read and written at its speed."""
    shards = shard_count(media, inputs)
    list_seconds, memory = plan_cost(listing, inputs)
    working = makespan(shards, inputs / shards * core_seconds, cluster.cores)
    seconds = list_seconds + max(working, (read + written) / (1e9 * cluster.storage_gb))
    core_hours = (inputs * core_seconds + list_seconds) / HOUR
    files = 2 * shards + 4  # with their .idx; index, rejects, manifest, report
    return Stage(name, core_hours, 0.0, seconds / HOUR, read, written, files, memory)


def job_limit(shards: int, core_seconds: float, moved: float, cluster: ClusterSettings) -> tuple[int, str]:
    """Cores beyond which the shard job gains nothing, and why; `moved` bytes are read and written for each input."""
    of_storage = int(1e9 * cluster.storage_gb * core_seconds / moved)
    if shards <= of_storage:
        return shards, f"one works on each of the {shards:,} shards (`--samples_per_shard` makes more)"
    return of_storage, f"that many read and write the storage's {cluster.storage_gb:g} GB/s"


def clip_bytes(data: DataSettings, figures: Figures) -> float:
    """Bytes of all clips in shards, with the index."""
    return data.clips * (data.frames * figures.clip_frame_bytes.value + figures.clip_index_bytes.value)


def image_bytes(data: DataSettings, figures: Figures) -> float:
    """Bytes of all images in shards, with the index."""
    return data.images * (figures.image_bytes.value + figures.image_index_bytes.value)


def feature_stage(data: DataSettings, figures: Figures, cluster: ClusterSettings, gpu_flops: float) -> Stage:
    """One forward pass of ViT-S for each image, on all GPUs."""
    rate = gpu_flops / forward_flops(VitSettings(), 224, 224)
    if figures.gpu_feature_images is not None:
        rate = figures.gpu_feature_images.value
    gpu_hours = data.images / rate / HOUR
    read, written = image_bytes(data, figures), 2.0 * FEATURE_WIDTH * data.images
    seconds = max(HOUR * gpu_hours / cluster.gpus, read / (1e9 * cluster.storage_gb))
    return Stage("features of images, ViT-S", 0.0, gpu_hours, seconds / HOUR, read, written, 1, None)


def search_blocks(rows: int) -> int:
    """Blocks of queries, each of which one process searches."""
    return math.ceil(rows / SEARCH_BLOCK)


def search_core_hours(rows: int, pairs_a_core_second: float) -> float:
    """Core-hours of the exact search of `rows` vectors among themselves."""
    return float(rows) ** 2 / pairs_a_core_second / HOUR


def search_stage(data: DataSettings, figures: Figures, cluster: ClusterSettings) -> Stage:
    """Exact neighbours of all images on CPU cores; each process holds all vectors in float32."""
    blocks = search_blocks(data.images)
    core_hours = search_core_hours(data.images, figures.search_pairs.value)
    processes = cluster.nodes * max(1, cluster.cores_a_node // SEARCH_CORES)
    hours = makespan(blocks, core_hours / blocks / SEARCH_CORES, processes)
    vectors = 4.0 * FEATURE_WIDTH * data.images
    written = 8.0 * NEIGHBOURS * data.images
    return Stage("exact search", core_hours, 0.0, hours, processes * vectors / 2, written, 2, vectors)


def evaluation_stage(figures: Figures, cluster: ClusterSettings) -> Stage:
    """One checkpoint of ViT-S on DAVIS, on the CPU cores of one machine."""
    frame = forward_flops(VitSettings(), 480, 880) / figures.forward_flops.value
    frame += figures.propagation_core_seconds.value + DAVIS_OBJECTS * figures.boundary_core_seconds.value
    core_hours = DAVIS_FRAMES * frame / HOUR
    return Stage(
        "DAVIS, ViT-S, on one machine's cores", core_hours, 0.0, core_hours / cluster.cores_a_node, 0, 0, 0, None
    )


def build_stages(data: DataSettings, figures: Figures, cluster: ClusterSettings, gpu_flops: float) -> list[Stage]:
    """All stages beside pre-training, in the order of the flow."""
    return [
        shards_stage(
            *("shards of clips", "clips", data.clips, figures.clip_core_seconds.value),
            *(1e3 * data.clip_kb * data.clips, clip_bytes(data, figures), figures.listing, cluster),
        ),
        shards_stage(
            *("shards of images", "images", data.images, figures.image_core_seconds.value),
            *(data.images * figures.image_jpeg_bytes.value, image_bytes(data, figures), figures.listing, cluster),
        ),
        feature_stage(data, figures, cluster, gpu_flops),
        search_stage(data, figures, cluster),
        evaluation_stage(figures, cluster),
    ]
