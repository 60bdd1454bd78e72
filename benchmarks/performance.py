"""`make performance`: docs/performance.md from the result files of the benchmarks, beside what others report."""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple

from benchmarks.gpu_stages import READER, RUN, build_stages, describe, step_name
from benchmarks.markdown import paragraph, table
from benchmarks.result import read_result, write_page
from pipeline.settings import Command, UserError, run_command

Result = dict[str, Any]
Row = tuple[str, str, str]
"""Quantity, measurement, and reference."""
HEADER = ("", "measured", "reference")
SectionContent = tuple[str, list[Row]]
"""A sentence on the conditions of a measurement, and the rows of its table."""


class PerformanceCommand(Command):
    """Write docs/performance.md from the JSON files that the benchmarks left."""

    program: ClassVar[str] = "python -m benchmarks.performance"

    results: Path = Path("benchmarks/results")
    """Folder of the JSON files; the page names those that are missing."""
    out: Path = Path("docs/performance.md")
    """The document."""


INTRO = """# Performance

Written by `make performance` from the files in `benchmarks/results/`; each section names the command that writes its
file. Ratios are taken within one run and carry over to other machines better than times. References are the *aim* of
this project, the *paper* (table 6 and section C.2), or the released code of the *authors* on two CPU cores, which was
measured outside this repository."""
PAPER_RUN = "paper: 30 h on 4 GPUs, 417.57 GB in all, for 200 epochs at batch 128"
GPU_BESIDE = {
    step_name("base", 128, False): f"{PAPER_RUN}; aim on one H200: under 80 GB",
    step_name("base", 128, True): f"{PAPER_RUN}; aim on one H200: under 80 GB and under 30 h",
    step_name("small", 256, True): "paper: batch 256, 400 epochs; no time given",
    READER: "aim: 2,500 samples/s",
    RUN: "aim: under 2 % of the time waiting for data",
}
SHARD_AIMS = {
    "clip job against bare ffmpeg": "aim: at least 0.90",
    "clip job, 2 workers against 1": "aim: at least 1.8",
    "image job against plain tar": "aim: at least 0.7",
}
READER_ROWS = (
    (
        "samples_per_core_second_over_dali",
        "reader / DALI's graph, by core-second",
        "{:.2f} x",
        "aim: at least 2.3",
    ),
    ("samples_per_core_second_over_pillow", "reader / DataLoader, by core-second", "{:.2f} x", "aim: at least 3.5"),
    ("samples_per_core_second_over_decode", "reader / decoding alone, by core-second", "{:.2f} x", ""),
    (
        "samples_per_second_over_one_thread",
        "reader / one thread, by the clock",
        "{:.2f} x",
        "aim: at least 1.7",
    ),
    ("host_microseconds_per_sample", "host work a sample", "{:.0f} microseconds", "aim: at most 100"),
    ("bytes_asked_over_needed", "bytes asked for / needed", "{:.3f}", "aim: at most 1.1"),
    ("bytes_from_storage_over_needed", "bytes from storage / needed, in whole pages", "{:.3f}", ""),
    ("bytes_of_pages_over_needed", "the pages that hold the needed bytes / needed", "{:.3f}", ""),
    ("memory_growth_mb", "growth of memory over the steps watched", "{:+.1f} MB", "aim: none"),
)
EVALUATION_BESIDE = {
    "propagation": "authors: 430 ms",
    "boundary measure": "authors: 7.5 ms an object",
    "ratio: propagation": "aim: at least 1.5",
    "ratio: boundary measure": "aim: at least 4",
}


def machine(result: Result) -> str:
    """The machine and the versions of a result, in one line."""
    current = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"{current['cpu']}, {current['cores']} cores; Python {current['python']}, {versions}"


def shards(result: Result) -> SectionContent:
    """The shard job."""
    rows = [(name, f"{value:.2f} x", SHARD_AIMS.get(name, "")) for name, value in result["ratios"].items()]
    rows += [(f"{name}, seconds", f"{median(times):.1f}", "") for name, times in result["seconds"].items()]
    return f"{result['clips']} clips and {result['images']} images, {result['source']}.", rows


def reader(result: Result) -> SectionContent:
    """The reader on the CPU."""
    names = {
        "reader": "reader",
        "one_thread": "reader, one thread",
        "dali": "DALI's graph on the CPU",
        "pillow": "DataLoader",
        "decode": "decoding alone, by DALI",
    }
    rows = [
        (
            names[name],
            f"{figures['samples_per_second']:.1f} samples/s, {figures['samples_per_core_second']:.1f} a core-second",
            "authors: 27 samples/s a core" if name == "reader" else "",
        )
        for name, figures in result.get("peers", {"reader": result}).items()
    ]
    rows += [(what, form.format(result[key]), aim) for key, what, form, aim in READER_ROWS if key in result]
    crops = "2 + {local_crops} crops of {global_size} and {local_size} pixels".format(**result)
    return f"Batch {result['batch_size']}, {result['threads']} threads, {crops}.", rows


def train(result: Result) -> SectionContent:
    """The training step on the CPU."""
    seconds, memory = result["seconds"], result["peak_gb"]
    return "Backbone {architecture}, batch {batch_size}, {prototypes} prototypes, float32.".format(**result), [
        ("seconds", "{ours:.2f}, reference {reference:.2f}".format(**seconds), "authors, ViT-S at batch 4: 6.0"),
        ("peak memory", "{ours:.2f} GB, reference {reference:.2f} GB".format(**memory), "authors, the same: 3.5 GB"),
        ("time / reference", f"{result['time_ratio']:.2f}", "aim: at most 0.9"),
        ("memory / reference", f"{result['memory_ratio']:.2f}", "aim: at most 0.7"),
    ]


def neighbours(result: Result) -> SectionContent:
    """The exact search on the CPU."""
    growth = result["microseconds_a_query_by_rows"].items()
    peaks = result["peak_memory_gb_by_budget"].items()
    return "{rows} vectors of width {width}, {k} neighbours, FAISS {faiss}.".format(**result), [
        ("queries/s", "{queries_per_second:.0f}, FAISS {floor_queries_per_second:.0f}".format(**result), ""),
        ("share of FAISS's speed", f"{result['of_the_floor']:.3f}", "aim: at least 0.85"),
        ("microseconds a query", ", ".join(f"{value:.0f} over {count} rows" for count, value in growth), ""),
        ("peak memory", ", ".join(f"{peak:.2f} GB of {budget} GB allowed" for budget, peak in peaks), "aim: within"),
        ("ImageNet, 1.28 M images, projected", f"{result['imagenet_core_hours']:.1f} core-hours", ""),
    ]


def evaluation(result: Result) -> SectionContent:
    """Label propagation on the CPU."""
    rows = []
    for name, value in result.items():
        if isinstance(value, float):
            ratio = name.startswith("ratio: ")
            what = f"{name.removeprefix('ratio: ')}: times as fast" if ratio else f"{name}, ms a frame"
            rows.append((what, f"{value:.2f}", EVALUATION_BESIDE.get(name, "")))
    height, width = result["size"]
    return f"Frames of {height} x {width} pixels, {result['threads']} threads, {result['device']}.", rows


def gpu(result: Result) -> SectionContent:
    """Everything on one GPU.

    Raises:
        UserError: the result is of a dry run.
    """
    if result["device"] != "cuda":
        raise UserError("gpu.json is of a dry run on the CPU, which measures nothing: remove it")
    rows = [(stage["name"], describe(stage), GPU_BESIDE.get(stage["name"], "")) for stage in result["stages"]]
    rows.append(("all of it", f"{result['seconds']:.0f} s", "aim: under 480 s"))
    return "{name} with {memory_gb:.0f} GB, CUDA {cuda}.".format(**result["gpu"]), rows


def no_gpu() -> str:
    """Placeholder for the measurements on a GPU."""
    stages = build_stages("cuda", 1, Path(), Path())
    rows = [(stage.name, "no GPU was available", GPU_BESIDE.get(stage.name, "")) for stage in stages]
    return f"**No GPU was available: nothing here was measured.**\n\n{table(HEADER, rows)}"


class Section(NamedTuple):
    """A part of the document."""

    title: str
    target: str
    """Of the Makefile."""
    file: str
    content: Callable[[Result], SectionContent]
    intro: str


SECTIONS = (
    Section(
        *("Shards", "bench-shards", "shards.json", shards),
        "The shard job against bare ffmpeg and the usual recipes, with as many processes as it has workers.",
    ),
    Section(
        *("Reader", "bench-reader", "reader.json", reader),
        "Batches from frames of 340 x 256 pixels, against a DataLoader that executes the same plan with Pillow.",
    ),
    Section(
        *("Training step", "bench-train", "train.json", train),
        "A whole step against the reference step, which has K-wide logits and skips no work.",
    ),
    Section(
        *("Nearest neighbours", "bench-knn", "knn.json", neighbours),
        "The exact search against FAISS's flat index called directly on the same arrays.",
    ),
    Section(
        *("Evaluation", "bench-eval", "evaluation.json", evaluation),
        "Features, label propagation and scoring against straightforward versions of the same.",
    ),
    Section(
        *("One GPU", "bench-gpu", "gpu.json", gpu),
        "Steps are in bf16, on random batches of the real sizes; reader, run and features read clips of 340 x 256 made "
        "by code. The run is ViT-S at batch 64 with compiled blocks. Neighbours are searched among as many vectors as "
        "ImageNet has images. Features and evaluation are of ViT-S.",
    ),
)


def render(section: Section, result: Result | None) -> str:
    """A section of the document."""
    made = f"`make {section.target}` writes `benchmarks/results/{section.file}`."
    if result is None:
        conditions = ""
        rest = [no_gpu() if section.content is gpu else f"Not measured: there is no {section.file} yet."]
    else:
        conditions, rows = section.content(result)
        rest = [table(HEADER, rows), paragraph(machine(result))]
    message = " ".join(part for part in (section.intro, conditions, made) if part)
    return "\n\n".join([f"## {section.title}", paragraph(message), *rest])


def document(folder: Path) -> str:
    """The whole document from the result files in `folder`.

    Raises:
        UserError: one of them cannot be used.
    """
    parts = [render(section, read_result(folder / section.file, f"make {section.target}")) for section in SECTIONS]
    return "\n\n".join([INTRO, *parts]) + "\n"


def main(command: PerformanceCommand) -> None:
    """Write the document."""
    write_page(command.out, document(command.results))
    print(f"written to {command.out}")


if __name__ == "__main__":
    run_command(PerformanceCommand, main)
