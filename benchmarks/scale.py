"""`make scale`: what limits the flow first at the size of Kinetics and ImageNet, computed from measured figures.

Arithmetic on the result files of the benchmarks and on the options; nothing is run at this size. A resource is the
limit where keeping all GPUs busy needs more of it than the cluster has.
"""

import math
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field

from benchmarks.flops import peak_flops
from benchmarks.gpu_stages import step_name
from benchmarks.markdown import bullets, number, paragraph, table
from benchmarks.result import read_result
from pipeline.files import write_bytes
from pipeline.settings import Command, UserError, parse_command, run_command
from pipeline.shards.plan import default_samples_per_shard
from training.command import TrainCommand
from training.model import TCoRe, TCoReSettings

HOUR, GB = 3600.0, 1e9
PRESETS = Path(__file__).parents[1] / "configs"
PAGE_OVERHEAD = 4096 - 512 / 2
"""Bytes by which whole pages exceed a JPEG that begins at any block of a tar, on average."""
AUXILIARY_READ = 0.75
"""Share of auxiliary frames that the reader reads; it skips those of samples whose two crops have no mask."""
SEARCH_BLOCK, SEARCH_CORES = 8192, 4
"""Queries of a block of the neighbour search and cores of the process that searches it, by default."""

BYTES_A_SECOND = {"H100": 3.35e12, "H200": 4.8e12}
"""Memory bandwidth that the maker states, of the SXM forms."""
PEAK_SHARE = 0.6
"""Share of the peak that matrix products reach."""

INTRO = """Written by `make scale`; `python -m benchmarks.scale --help` takes your own cluster. Nothing was run at this
size: this is arithmetic, to two digits, on figures measured on small machines (`benchmarks/results/`). {clips:,} clips
and {images:,} images on {nodes} machines with {gpus} GPUs and {cores} CPU cores each, a network of {network_gb:g} GB/s,
and storage that gives {storage_gb:g} GB/s and answers {storage_reads:,.0f} reads/s. A step that was not measured takes
as long as the roofline of one {gpu}."""
ROOFLINE_NOTE = """A step in bf16 with compiled losses moves the bytes that `make bench-counts` counts at the memory's
full speed, or computes at {share:.0%} of the peak; the longer one counts. The blocks are counted as they run eagerly;
compiled, they move less."""
TABLE_NOTE = """At the paper's global batch. Each cell has the demand of {gpus} GPUs that never wait / how many GPUs
exceed the supply. A machine whose memory holds the shards reads from storage in the first epoch only;
what `data.cache_gb` does not hold is read from an object store in every epoch."""


class ScaleCommand(Command):
    """Compute what limits shards, neighbours and pre-training first on a cluster, and write a page in Markdown."""

    program: ClassVar[str] = "python -m benchmarks.scale"

    out: Path = Path("docs/scale.md")
    """The page."""
    results: Path = Path("benchmarks/results")
    """Folder with the JSON files of the benchmarks."""
    clips: int = Field(240_000, ge=1, le=10**9)
    """Clips of 10 s; Kinetics-400 has 239,789 for training (paper, section 4.1)."""
    clip_kb: float = Field(600.0, gt=0, le=1e6)
    """Kilobytes of a clip before it is decoded."""
    images: int = Field(1_300_000, ge=1, le=10**9)
    """Images; ImageNet-1k has 1,281,167 for training."""
    nodes: int = Field(8, ge=1, le=10_000)
    """Machines."""
    gpus: int = Field(8, ge=1, le=64)
    """GPUs of a machine."""
    cores: int = Field(64, ge=1, le=4096)
    """CPU cores of a machine."""
    network_gb: float = Field(12.5, gt=0, le=1e4)
    """10^9 bytes a second that a machine sends and receives at once; 12.5 are 100 Gbit/s."""
    storage_gb: float = Field(10.0, gt=0, le=1e6)
    """10^9 bytes a second that the shared storage gives to all machines together."""
    storage_reads: float = Field(100_000.0, gt=0, le=1e9)
    """Single reads a second that it answers."""
    gpu: Literal["H100", "H200"] = "H100"
    """GPU whose roofline is used where gpu.json has no figure."""


class PretrainRun(NamedTuple):
    """A pre-training run of the paper."""

    title: str
    samples: int
    epochs: int
    batch: int
    parameters: int
    rate: float
    """Samples a second that a GPU trains on if nothing else limits it."""
    frames: float
    """Frames that are read for a sample."""
    frame_bytes: float
    dataset_bytes: float


def figure(command: ScaleCommand, benchmark: str, file: str, *keys: str) -> Any:  # noqa: ANN401 - a JSON value
    """A value in a result file, which `make BENCHMARK` writes.

    Raises:
        UserError: it is not there.
    """
    value: Any = read_result(command.results / file, f"make {benchmark}")
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise UserError(f"{command.results / file} has no {' / '.join(keys)}: write it with `make {benchmark}`")
        value = value[key]
    return value


def step_rate(command: ScaleCommand, settings: TCoReSettings) -> float:
    """Samples a second of a GPU: of the fastest measured training step, else at its roofline."""
    result = read_result(command.results / "gpu.json", "make bench-gpu") or {}
    architecture = settings.backbone.architecture or "small"
    batches = {step_name(architecture, size, compiled): size for size in (64, 128, 256) for compiled in (False, True)}
    steps = [stage for stage in result.get("stages", ()) if stage["name"] in batches and stage["status"] == "done"]
    rates = [batches[step["name"]] / step["figures"]["seconds"] for step in steps]
    if not rates:
        clips, seconds = roofline(command, architecture, command.gpu)
        return clips / max(seconds)
    return float(max(rates))


def roofline(command: ScaleCommand, architecture: str, gpu: str) -> tuple[int, tuple[float, float]]:
    """Clips of the counted step, and the seconds that it takes the GPU at least: for its bytes and for its products."""
    counts = figure(command, "bench-counts", "counts.json", architecture)
    peak = peak_flops(gpu)
    assert peak is not None
    moved = counts["compiled"]["step"]["bytes"] / BYTES_A_SECOND[gpu]
    return counts["clips"], (moved, counts["flops"] / (PEAK_SHARE * peak))


def roofline_table(command: ScaleCommand) -> str:
    """Milliseconds of a step for bytes / products, by model and GPU."""
    rows = []
    for architecture, title in (("small", "ViT-S/16"), ("base", "ViT-B/16")):
        clips, _ = roofline(command, architecture, command.gpu)
        launches = figure(command, "bench-counts", "counts.json", architecture, "eager", "step", "launches")
        times = [roofline(command, architecture, gpu)[1] for gpu in BYTES_A_SECOND]
        cells = [" / ".join(number(1e3 * seconds) for seconds in pair) for pair in times]
        rows.append([f"{title}, {clips} clips", *cells, f"{launches:,}"])
    return table(["ms for bytes / for products", *BYTES_A_SECOND, "kernels, eager"], rows)


def dataset_bytes(command: ScaleCommand, media: str) -> float:
    """Bytes of shards and index."""
    a_frame, a_sample = (
        figure(command, "bench-sizes", "sizes.json", media, key)
        for key in ("shard_bytes_a_frame", "index_bytes_a_sample")
    )
    return float(
        command.clips * (20 * a_frame + a_sample) if media == "clips" else command.images * (a_frame + a_sample)
    )


def paper_runs(command: ScaleCommand) -> list[PretrainRun]:
    """The paper's runs, from its presets; an ImageNet step counts like one with two auxiliary frames."""
    runs = []
    for title, preset, media, samples, auxiliary in (
        ("Kinetics, ViT-S/16", "paper-vits16-k400", "clips", command.clips, 2),
        ("Kinetics, ViT-B/16", "paper-vitb16-k400", "clips", command.clips, 2),
        ("ImageNet, ViT-S/16", "paper-vits16-in1k", "images", command.images, 1),
    ):
        arguments = ("--config", str(PRESETS / f"{preset}.yaml"), "--data.shards", ".", "--out", ".")
        run = parse_command(TrainCommand, arguments)
        with torch.device("meta"):
            model = TCoRe(run.model)
        parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        length = (samples, run.train.epochs, run.train.total_batch_size, parameters)
        frame_bytes = figure(command, "bench-sizes", "sizes.json", media, "jpeg_bytes_a_frame")
        reads = (1 + AUXILIARY_READ * auxiliary, frame_bytes, dataset_bytes(command, media))
        runs.append(PretrainRun(title, *length, step_rate(command, run.model), *reads))
    return runs


def demands(run: PretrainRun, command: ScaleCommand, nodes: int, core_rate: float) -> dict[str, tuple[float, float]]:
    """By resource: what a run on whole machines needs so that its GPUs never wait, and what there is.

    The global batch is the paper's; gradients are float32 in a ring of machines. `core_rate` is the samples a second
    for which one CPU core decodes frames and makes views.
    """
    rate, network = nodes * command.gpus * run.rate, command.network_gb
    gradients = 2 * (nodes - 1) / nodes * 4 * run.parameters * rate / run.batch / GB
    frames, frame_gb = rate * run.frames, (run.frame_bytes + PAGE_OVERHEAD) / GB
    shards = nodes * run.dataset_bytes * rate / run.samples / GB
    return {
        "CPU cores of a machine, if they decode": (command.gpus * run.rate / core_rate, command.cores),
        "network: GB/s of gradients per machine": (gradients, network),
        "shared storage: GB/s of frames": (frames * frame_gb, command.storage_gb),
        "shared storage: reads/s of frames": (frames, command.storage_reads),
        "object store: GB/s of whole shards": (shards, min(command.storage_gb, nodes * network)),
    }


def first_limit(run: PretrainRun, resource: str, command: ScaleCommand, core_rate: float) -> int | None:
    """Fewest GPUs, in whole machines of the cluster, for which the resource is short; None if it never is."""
    for nodes in range(1, command.nodes + 1):
        needed, available = demands(run, command, nodes, core_rate)[resource]
        if needed > available:
            return nodes * command.gpus
    return None


def shard_job(command: ScaleCommand, media: str) -> tuple[float, dict[str, float]]:
    """Core-seconds of the shard job, and the seconds that each resource of the cluster needs for it."""
    file, inputs = ("bench-shards", "shards.json"), command.clips if media == "clips" else command.images
    clip_seconds = median(figure(command, *file, "seconds", "clip job, 2 workers, within tasks"))
    measured = clip_seconds if media == "clips" else figure(command, *file, "stage_seconds", "images", "tasks")
    core_seconds = inputs * 2 * measured / figure(command, *file, media)
    written = dataset_bytes(command, media)
    read = 1e3 * command.clip_kb * inputs if media == "clips" else written
    listed = figure(command, "bench-listing", "listing.json", "inputs")
    most = max(listed, key=int)
    shards = math.ceil(inputs / default_samples_per_shard("clips" if media == "clips" else "images", inputs))
    workers = min(command.nodes * command.cores, shards)
    return core_seconds, {
        f"{workers} workers for {shards:,} shards": core_seconds / workers,
        "storage": (read + written) / (GB * command.storage_gb),
        "listing on one core": inputs * listed[most]["seconds"] / int(most),
    }


def search_job(command: ScaleCommand) -> tuple[float, dict[str, float]]:
    """The same for the exact neighbours of all images."""
    by_rows = figure(command, "bench-knn", "knn.json", "microseconds_a_query_by_rows")
    most = max(by_rows, key=int)
    pair_seconds = 1e-6 * by_rows[most] * figure(command, "bench-knn", "knn.json", "machine", "cores") / int(most)
    core_seconds, blocks = command.images**2 * pair_seconds, math.ceil(command.images / SEARCH_BLOCK)
    cores = min(command.nodes * command.cores, SEARCH_CORES * blocks)
    return core_seconds, {f"{cores} cores for {blocks} blocks": core_seconds / cores}


def page(command: ScaleCommand) -> str:
    """The page in Markdown."""
    runs = paper_runs(command)
    core_rate = figure(command, "bench-reader", "reader.json", "samples_per_core_second")
    jobs = {f"shards of {media}": shard_job(command, media) for media in ("clips", "images")}
    jobs["exact neighbours of images"] = search_job(command)
    needs = [demands(run, command, command.nodes, core_rate) for run in runs]
    first, resources, costs = [], [], []
    for name, (_, available) in needs[0].items():
        limits = [first_limit(run, name, command, core_rate) for run in runs]
        first += [(min(filter(None, limits)), name)] if any(limits) else []
        cells = [f"{number(need[name][0])} / {limit or '-'}" for need, limit in zip(needs, limits, strict=True)]
        resources.append([name, *cells, number(available)])
    for name, (core_seconds, times) in jobs.items():
        limit = max(times, key=times.__getitem__)
        costs.append((name, number(core_seconds / HOUR), number(times[limit] / 60), limit))
    lengths = [
        f"{run.title}, {run.epochs} epochs: {number(run.epochs * run.samples / run.rate / HOUR)} GPU-hours on "
        f"{number(run.dataset_bytes / GB)} GB of shards."
        for run in runs
    ]
    parts = [
        "# Scale on paper",
        paragraph(INTRO.format(**command.model_dump())),
        "## What limits pre-training first",
        bullets(f"{name}: from {gpus} GPUs on." for gpus, name in sorted(first)),
        paragraph(TABLE_NOTE.format(gpus=command.nodes * command.gpus)),
        table(["", *(run.title for run in runs), "available"], resources),
        "## How long it takes",
        table(["", "core-hours", "minutes on the cluster", "limited by"], costs),
        bullets(lengths),
        paragraph(ROOFLINE_NOTE.format(share=PEAK_SHARE)),
        roofline_table(command),
    ]
    return "\n\n".join(parts) + "\n"


def main(command: ScaleCommand) -> None:
    """Compute and write the page."""
    write_bytes(command.out, page(command).encode())
    print(f"written to {command.out}")


if __name__ == "__main__":
    run_command(ScaleCommand, main)
