"""Pre-training on a number of GPUs: what every resource would have to give, and which one gives out first.

A resource's share is what the run needs of it, so that its GPUs never wait, over what there is. Everything overlaps:
below 1 it costs nothing, and above 1 the run takes that many times as long. Pure arithmetic.
"""

import math
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.scale.figures import Figures
from benchmarks.scale.options import ClusterSettings, DataSettings
from benchmarks.scale.stages import HOUR, clip_bytes, image_bytes
from pipeline.settings import load_yaml
from training.model import TCoRe, TCoReSettings

CONFIGS = Path(__file__).parents[2] / "configs"
MOST_GPUS = 1024
"""Largest cluster that is looked at."""
PAGE, TAR_BLOCK = 4096, 512
_READ_OF_AUXILIARY = 0.75
"""Share of auxiliary frames that the reader reads: those beside two crops without a mask it leaves out."""


class Resource(Enum):
    """What may give out."""

    CORES = "CPU cores that decode and make views"
    NETWORK = "network: gradients between machines"
    BYTES = "shared storage: bytes of single frames"
    REQUESTS = "shared storage: single reads"
    STORE = "object store: whole shards to every machine"


class ModelSize(NamedTuple):
    """Of the whole model in training."""

    trained: int
    """Parameters that get a gradient."""
    checkpoint: int
    """Bytes of a checkpoint: student, teacher and centres, and two moments of AdamW for each trained parameter."""

    @property
    def state(self) -> int:
        """Bytes of what a GPU holds beside activations: the same and the gradients."""
        return self.checkpoint + 4 * self.trained


class Run(NamedTuple):
    """A pre-training run of the paper."""

    title: str
    times: int
    """How often it is needed: on images first without and then with neighbours."""
    samples: int
    epochs: int
    batch: int
    """Clips in the paper's global batch."""
    size: ModelSize
    rate: float
    """Samples a second that a GPU trains on if nothing else limits it."""
    frames: float
    """Frames that are read for a sample."""
    frame_bytes: float
    dataset_bytes: float

    @property
    def read_bytes(self) -> float:
        """Bytes that the reader reads in the whole run, in whole pages."""
        return self.epochs * self.samples * self.frames * page_bytes(self.frame_bytes)


class Point(NamedTuple):
    """A run on a number of GPUs."""

    gpus: int
    clips: float
    """Clips of each GPU."""


def model_size(settings: TCoReSettings) -> ModelSize:
    """Sizes of a model, which is not built in memory for that."""
    with torch.device("meta"):
        model = TCoRe(settings)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    state = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return ModelSize(trained, state + 8 * trained)


def paper_runs(data: DataSettings, figures: Figures) -> list[Run]:
    """The paper's runs, from its presets. ImageNet counts the work of two auxiliary frames, of which it has one."""
    clips = (data.clips, figures.clip_jpeg_bytes.value, clip_bytes(data, figures), 2, 1)
    images = (data.images, figures.image_jpeg_bytes.value, image_bytes(data, figures), 1, 2)
    small, base = figures.small_samples.value, figures.base_samples.value
    runs = []
    for title, preset, rate, (samples, frame_bytes, dataset_bytes, auxiliary, times) in (
        ("Kinetics, ViT-S/16", "paper-vits16-k400", small, clips),
        ("Kinetics, ViT-B/16", "paper-vitb16-k400", base, clips),
        ("ImageNet, ViT-S/16", "paper-vits16-in1k", small, images),
    ):
        content = load_yaml(CONFIGS / f"{preset}.yaml")
        size = model_size(TCoReSettings.model_validate(content["model"]))
        train, frames = content["train"], 1 + _READ_OF_AUXILIARY * auxiliary
        length = (samples, train["epochs"], train["total_batch_size"])
        runs.append(Run(title, times, *length, size, gpu_rate(rate, figures), frames, frame_bytes, dataset_bytes))
    return runs


def gpu_rate(training: float, figures: Figures) -> float:
    """Samples a second of a GPU that also decodes and makes views, which is taken as free where it is not measured."""
    reader = figures.gpu_reader_samples
    return training if reader is None else 1 / (1 / training + 1 / reader.value)


def page_bytes(size: float) -> float:
    """Bytes of whole pages, on average, that hold a JPEG of `size` bytes in a tar, where it begins at any block."""
    return size + PAGE - TAR_BLOCK / 2


def nodes_of(gpus: int, cluster: ClusterSettings) -> int:
    """Machines of a run on so many GPUs."""
    return math.ceil(gpus / cluster.gpus_a_node)


def all_reduce_bytes(nodes: int, trained: int) -> float:
    """Bytes that each machine sends, and receives, in a step: float32 gradients in a ring of machines."""
    return 2 * (nodes - 1) / nodes * 4 * trained


def demands(run: Run, point: Point, cluster: ClusterSettings, core_rate: float) -> dict[Resource, float]:
    """What a run needs so that its GPUs never wait, in the units of `capacities`."""
    nodes, samples_a_second = nodes_of(point.gpus, cluster), point.gpus * run.rate
    return {
        Resource.CORES: min(point.gpus, cluster.gpus_a_node) * run.rate / core_rate,
        Resource.NETWORK: all_reduce_bytes(nodes, run.size.trained) * run.rate / point.clips,
        Resource.BYTES: samples_a_second * run.frames * page_bytes(run.frame_bytes),
        Resource.REQUESTS: samples_a_second * run.frames,
        Resource.STORE: nodes * run.dataset_bytes * samples_a_second / run.samples,
    }


def capacities(point: Point, cluster: ClusterSettings) -> dict[Resource, float]:
    """What there is: cores of a machine, bytes a second of its network; bytes and reads a second of the storage."""
    network, storage = 1e9 * cluster.network_gb, 1e9 * cluster.storage_gb
    return {
        Resource.CORES: cluster.cores_a_node,
        Resource.NETWORK: network,
        Resource.BYTES: storage,
        Resource.REQUESTS: cluster.storage_requests,
        Resource.STORE: min(storage, nodes_of(point.gpus, cluster) * network),
    }


def shares(run: Run, point: Point, cluster: ClusterSettings, core_rate: float) -> dict[Resource, float]:
    """What is needed over what there is."""
    there = capacities(point, cluster)
    return {resource: needed / there[resource] for resource, needed in demands(run, point, cluster, core_rate).items()}


def fits_in_memory(run: Run, cluster: ClusterSettings) -> bool:
    """Whether each machine keeps the whole dataset in its page cache: storage is then read in the first epoch only."""
    return run.dataset_bytes <= 1e9 * cluster.memory_gb


def lasting(run: Run, cluster: ClusterSettings, on_cpu: bool) -> list[Resource]:
    """What a run on local or shared storage needs in every epoch; `on_cpu` decodes on CPU cores."""
    frames = [] if fits_in_memory(run, cluster) else [Resource.BYTES, Resource.REQUESTS]
    return [*([Resource.CORES] if on_cpu else []), Resource.NETWORK, *frames]


def hours(run: Run, point: Point, cluster: ClusterSettings, core_rate: float, on_cpu: bool) -> float:
    """Hours of the whole run; a step more or less in an epoch does not count."""
    computing = run.epochs * run.samples / (point.gpus * run.rate) / HOUR
    needed = shares(run, point, cluster, core_rate)
    return computing * max(1.0, *(needed[resource] for resource in lasting(run, cluster, on_cpu)))


def points(run: Run, cluster: ClusterSettings, clips_a_gpu: int | None) -> list[Point]:
    """The numbers of GPUs that are looked at: all of one machine, then whole machines.

    Without `clips_a_gpu` the global batch is the paper's, and every GPU has at least two clips of it (KoLeo needs two).
    """
    of_a_node = cluster.gpus_a_node
    counts = [*range(1, of_a_node), *range(of_a_node, MOST_GPUS + 1, of_a_node)]
    if clips_a_gpu is not None:
        return [Point(gpus, clips_a_gpu) for gpus in counts]
    return [Point(gpus, run.batch / gpus) for gpus in counts if 2 * gpus <= run.batch]


def first_over(
    run: Run, resource: Resource, cluster: ClusterSettings, core_rate: float, clips_a_gpu: int | None
) -> int | None:
    """Fewest GPUs for which a resource is the limit; None if there are none."""
    found = points(run, cluster, clips_a_gpu)
    return next((p.gpus for p in found if shares(run, p, cluster, core_rate)[resource] > 1), None)


def fastest(run: Run, cluster: ClusterSettings, core_rate: float) -> tuple[Point, float]:
    """The number of GPUs of the cluster with the fewest hours at the paper's batch, decoding on GPUs, and the hours."""
    there = [point for point in points(run, cluster, None) if point.gpus <= cluster.gpus]
    timed = [(point, hours(run, point, cluster, core_rate, on_cpu=False)) for point in there]
    return min(timed, key=lambda entry: entry[1])
