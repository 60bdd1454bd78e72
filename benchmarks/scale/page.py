"""The page: what comes out, and what it rests on."""

from benchmarks.markdown import NONE, bullets, count, duration, number, paragraph, size
from benchmarks.scale.figures import PAPER_SPEED, Figures
from benchmarks.scale.limits import MOST_GPUS, first_over, fits_in_memory, lasting, paper_runs
from benchmarks.scale.options import ScaleCommand
from benchmarks.scale.stages import (
    HOUR,
    SEARCH_BLOCK,
    SEARCH_CORES,
    build_stages,
    clip_bytes,
    image_bytes,
    job_limit,
    search_blocks,
    shard_count,
)
from benchmarks.scale.tables import (
    Case,
    figures_table,
    limits_table,
    needs_table,
    options_table,
    stage_table,
    time_table,
)
from pipeline.reader.order import OrderSettings
from pipeline.shards.sources import Media


def _first(case: Case, clips_a_gpu: int | None, on_cpu: bool) -> str:
    """What limits pre-training first, of what lasts longer than its first epoch, and from how many GPUs on."""
    cluster = case.command.cluster
    found = [
        (gpus, resource.value, run.title)
        for run in case.runs
        for resource in lasting(run, cluster, on_cpu)
        if (gpus := first_over(run, resource, cluster, case.core_rate, clips_a_gpu)) is not None
    ]
    if not found:
        return f"nothing up to {MOST_GPUS:,} GPUs"
    gpus, resource_name, title = min(found, key=lambda entry: entry[0])
    return f"{resource_name}, from {count(gpus, 'GPU')} on ({title})"


def _answers(case: Case) -> str:
    data, cluster, figures = case.command.data, case.command.cluster, case.figures
    lines = []
    for where, on_cpu in (("CPU cores", True), ("GPUs", False)):
        of_paper, growing = (_first(case, clips, on_cpu) for clips in (None, case.command.clips_a_gpu))
        growing = "the same" if growing == of_paper else growing
        lines.append(
            f"**Pre-training, decoding on {where}.** First limit at the paper's batch: {of_paper}. With "
            f"{case.command.clips_a_gpu} clips on every GPU: {growing}."
        )
    of_clips = 1e3 * data.clip_kb + clip_bytes(data, figures) / data.clips
    of_images = figures.image_jpeg_bytes.value + image_bytes(data, figures) / data.images
    jobs: tuple[tuple[Media, int, float, float], ...] = (
        ("clips", data.clips, figures.clip_core_seconds.value, of_clips),
        ("images", data.images, figures.image_core_seconds.value, of_images),
    )
    for media, inputs, core_seconds, moved in jobs:
        cores, why = job_limit(shard_count(media, inputs), core_seconds, moved, cluster)
        lines.append(f"**Shards of {media}.** More than {cores:,} cores gain nothing: {why}.")
    blocks = search_blocks(data.images)
    lines.append(
        f"""**Search.** More than {blocks * SEARCH_CORES:,} cores gain nothing: {blocks:,} blocks of {SEARCH_BLOCK:,}
        queries, {SEARCH_CORES} cores each."""
    )
    lines.append(
        f"""**Everything once** (shards of both, features, search, two runs on Kinetics, two on ImageNet, one DAVIS
        score, storage): {number(case.total_price)} in money, each run on the number of GPUs that is fastest at the
        paper's batch."""
    )
    return bullets(lines)


def _memory(case: Case) -> str:
    cluster, data, figures = case.command.cluster, case.command.data, case.figures
    kinetics, base, imagenet = case.runs
    shards = 2 * OrderSettings().window
    shard = kinetics.dataset_bytes / shard_count("clips", data.clips)
    speed = 1e9 * min(cluster.storage_gb, cluster.network_gb) * HOUR
    index = 12 * data.clips * data.frames + 50 * data.clips
    of_gpu = [
        f"{title} {'not measured' if figure is None else number(figure.value) + ' GB'}"
        for title, figure in (("ViT-S", figures.small_memory_gb), ("ViT-B", figures.base_memory_gb))
    ]
    saved = [
        f"{title} {size(run.size.checkpoint)} in {duration(run.size.checkpoint / speed)}"
        for title, run in (("ViT-S", kinetics), ("ViT-B", base))
    ]
    held = [
        f"{title} ({size(run.dataset_bytes)}) {'fits' if fits_in_memory(run, cluster) else 'does not fit'}"
        for title, run in (("Kinetics", kinetics), ("ImageNet", imagenet))
    ]
    return bullets(
        [
            f"""**State on each GPU** (parameters, gradients, AdamW, teacher; float32): ViT-S
            {size(kinetics.size.state)}, ViT-B {size(base.size.state)}. All of its memory, with activations:
            {", ".join(of_gpu)}.""",
            f"**Checkpoint:** {', '.join(saved)} at the speed of storage and network.",
            f"**Reader's index** of the clips: {size(index)} on each rank (12 bytes a frame, 50 a clip).",
            f"""**Page cache:** into a machine's {number(cluster.memory_gb)} GB {" and ".join(held)}. What fits is read
            from storage in the first epoch only, and the two rows of shared storage limit just that one.""",
            f"""**Object store** (`data.order.kind window`): {shards} shards of {size(shard)} are in use at a time,
            {size(shards * shard)} of `data.cache_gb`. A cache that holds the dataset is filled once; a smaller one is
            filled anew in every epoch by every machine, which is what the last row counts.""",
        ]
    )


def _rests_on(case: Case) -> list[str]:
    return [
        "## What it rests on",
        "Measured, in `benchmarks/results/`, on the machine that each file names:",
        figures_table(case.figures),
        paragraph(
            """The rule for what is missing: without `reader.json`, or without `gpu.json` or a stage of it, the line
            says *not measured* and an `--assumed` number stands in. Decoding on the GPU and the memory of a GPU have no
            stand-in: the first is taken as free, the second is left out. All other files must be there."""
        ),
        paragraph(
            f"""For comparison: the paper's ViT-B took 30 hours on 4 GPUs (appendix C.2), {number(PAPER_SPEED)} samples
            a second and GPU. It does not say which GPUs."""
        ),
        "Assumed, as options of the command:",
        options_table(case.command),
    ]


HOW = (
    """Shards: inputs times core-seconds, in whole shards on whole cores, or bytes over the storage's speed if that
    takes longer; list and plan come before it, on one core. Ray's start is not counted. Images go in byte for byte.""",
    """Features: a forward pass for each image; decoding is not counted. Search: rows squared over the pairs of a
    core-second. DAVIS: 1,999 frames, 61 objects in 30 sequences, on all cores of one machine.""",
    """Pre-training: the largest of what GPUs, network, cores (where they decode) and storage (where memory does not
    hold the data) need; all of it overlaps. A run on fewer GPUs than a machine has takes all of its cores. Gradients:
    each machine sends and receives 2 (n - 1) / n times 4 bytes a parameter in a step; within a machine they are
    free.""",
    """Reads of a sample: the current frame and 3/4 of the auxiliary ones (those beside two crops without a mask are
    left out), each in whole pages, which a JPEG in a tar makes 3,840 bytes longer on average. An ImageNet step, with
    one auxiliary image, counts as much work as one with two frames, which is too much; its larger images are taken to
    decode as fast as frames of clips, which is too fast.""",
    "The code is `benchmarks/scale/`; tests compare it with numbers worked out by hand.",
)


def write_page(command: ScaleCommand, figures: Figures) -> str:
    """The whole page in Markdown."""
    stages = build_stages(command.data, figures, command.cluster, 1e12 * command.assumed.gpu_tflops)
    case = Case(command, figures, stages, paper_runs(command.data, figures))
    data, cluster, clips = command.data, command.cluster, command.clips_a_gpu
    by_gpus = [
        part
        for run in case.runs
        for part in (f"**{run.title}**, {run.epochs} epochs, batch {run.batch}:", time_table(case, run))
    ]
    parts = [
        "# Scale on paper",
        paragraph(
            f"""Written by `make scale`; do not edit. `python -m benchmarks.scale --help` takes your own cluster and
            prices. Nothing was run at this size: it is arithmetic on figures measured on small machines, and on
            assumptions that are named below. {data.clips:,} clips and {data.images:,} images on {cluster.nodes}
            machines, each with {cluster.gpus_a_node} GPUs and {cluster.cores_a_node} CPU cores."""
        ),
        "## What limits first",
        _answers(case),
        "## Stages",
        paragraph(
            """On the whole cluster. Pre-training decodes on the GPUs, at the paper's batch, on the number of GPUs that
            takes the least time; what it reads comes from memory where the page cache holds it. Memory is that of the
            largest process, in pre-training the state on a GPU."""
        ),
        stage_table(case),
        "## Pre-training by number of GPUs",
        paragraph(
            f"""The paper's global batch is shared out, at least two clips a GPU. *Growing*: {clips} clips on every GPU,
            whatever their number, which from some number on is not the paper's recipe any more. Compute and gradients
            overlap. A GPU is taken to be as fast with few clips as with many, which flatters many GPUs at the paper's
            batch."""
        ),
        *by_gpus,
        "## Resources",
        f"What {cluster.gpus} GPUs need so that none of them waits, with {clips} clips each:",
        needs_table(case),
        f"From how many GPUs on it is short, at the paper's batch / with {clips} clips a GPU ({NONE}: never):",
        limits_table(case),
        _memory(case),
        *_rests_on(case),
        "## How it is computed",
        bullets(HOW),
    ]
    return "\n\n".join(parts) + "\n"
