"""The measured figures: each with the JSON file that it comes from, or with the word that it is not measured.

The rule: the shard job, sizes, listing, neighbour search and evaluation must have been measured. The reader on a CPU
and the step on a GPU may be missing; an assumption then stands in. What else a GPU would give is left out.
"""

from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.flops import forward_flops, step_flops
from benchmarks.gpu_stages import FEATURES, READER, step_name
from benchmarks.result import read_result
from benchmarks.scale.options import AssumedSettings
from benchmarks.train import KINETICS_CLIPS, PAPER_EPOCHS
from pipeline.settings import UserError
from training.model import TCoReSettings
from training.vit import VitSettings

MADE_BY = {
    "shards.json": "make bench-shards",
    "sizes.json": "make bench-sizes",
    "listing.json": "make bench-listing",
    "knn.json": "make bench-knn",
    "evaluation.json": "make bench-eval",
    "reader.json": "make bench-reader",
    "gpu.json": "make bench-gpu",
}
NOT_MEASURED = "not measured"
STEPS = {"small": ((256, True), (64, True), (64, False)), "base": ((128, True), (128, False))}
"""Batches of a GPU's training step and whether compiled, best first."""
PAPER_SPEED = PAPER_EPOCHS["base"] * KINETICS_CLIPS / (4 * 30 * 3600)
"""Samples a second and GPU of the paper's ViT-B: 200 epochs of Kinetics-400, 4 GPUs, 30 hours (appendix C.2)."""
TITLES = {"small": "ViT-S", "base": "ViT-B"}


class Figure(NamedTuple):
    """A number and where it comes from."""

    what: str
    value: float
    source: str
    """The JSON file, or that there is none and what stands in."""


class Figures(NamedTuple):
    """All measured figures; None is not measured and has no stand-in."""

    clip_core_seconds: Figure
    image_core_seconds: Figure
    clip_jpeg_bytes: Figure
    clip_frame_bytes: Figure
    clip_index_bytes: Figure
    image_jpeg_bytes: Figure
    image_bytes: Figure
    image_index_bytes: Figure
    search_pairs: Figure
    forward_flops: Figure
    propagation_core_seconds: Figure
    boundary_core_seconds: Figure
    reader_samples: Figure
    small_samples: Figure
    base_samples: Figure
    small_memory_gb: Figure | None
    base_memory_gb: Figure | None
    gpu_reader_samples: Figure | None
    gpu_feature_images: Figure | None
    listing: tuple[tuple[float, float, float], ...]
    """Inputs, seconds and 10^6 bytes of memory of each listing (`listing.json`)."""


class _Results:
    """The JSON files of a folder; files that are not there are empty."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._content = folder, dict[str, dict[str, Any]]()

    def of(self, file: str) -> dict[str, Any]:
        """Content of a file.

        Raises:
            UserError: it is no JSON.
        """
        if file not in self._content:
            self._content[file] = read_result(self._folder / file, MADE_BY[file]) or {}
        return self._content[file]

    def get(self, file: str, *keys: str) -> Any:  # noqa: ANN401 - a JSON value
        """A value that must be there.

        Raises:
            UserError: it is not.
        """
        value = self.of(file)
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise UserError(f"{self._folder / file} has no {' / '.join(keys)}: write it with `{MADE_BY[file]}`")
            value = value[key]
        return value

    def stage(self, name: str) -> dict[str, Any] | None:
        """Figures of a stage of the GPU's measurement; None if it was not done."""
        stages = {stage["name"]: stage for stage in self.of("gpu.json").get("stages", ())}
        return stages[name]["figures"] if name in stages and stages[name]["status"] == "done" else None


def _shards(results: _Results) -> dict[str, Figure]:
    file = "shards.json"
    clips, images = results.get(file, "clips"), results.get(file, "images")
    seconds = median(results.get(file, "seconds", "clip job, 2 workers, within tasks"))
    return {
        "clip_core_seconds": Figure("shard job, core-seconds a clip", 2 * seconds / clips, file),
        "image_core_seconds": Figure(
            "shard job, core-seconds an image", 2 * results.get(file, "stage_seconds", "images", "tasks") / images, file
        ),
    }


def _sizes(results: _Results) -> dict[str, Figure]:
    file = "sizes.json"

    def size(what: str, media: str, key: str) -> Figure:
        return Figure(
            f"bytes of {what} (mean of {results.get(file, media, 'samples')} {media})",
            results.get(file, media, key),
            file,
        )

    return {
        "clip_jpeg_bytes": size("a JPEG of a clip", "clips", "jpeg_bytes_a_frame"),
        "clip_frame_bytes": size("a frame in shards, all around it included", "clips", "shard_bytes_a_frame"),
        "clip_index_bytes": size("`index.parquet` for a clip", "clips", "index_bytes_a_sample"),
        "image_jpeg_bytes": size("an image", "images", "jpeg_bytes_a_frame"),
        "image_bytes": size("an image in shards, all around it included", "images", "shard_bytes_a_frame"),
        "image_index_bytes": size("`index.parquet` for an image", "images", "index_bytes_a_sample"),
    }


def _search_and_evaluation(results: _Results) -> dict[str, Figure]:
    file = "knn.json"
    rows, cores = str(results.get(file, "rows")), results.get(file, "machine", "cores")
    pairs = 1e6 * int(rows) / results.get(file, "microseconds_a_query_by_rows", rows) / cores
    found = {"search_pairs": Figure("search, pairs of vectors a core-second", pairs, file)}
    file = "evaluation.json"
    threads = results.get(file, "threads")
    milliseconds = {name: results.get(file, name) for name in ("features, batched", "propagation", "boundary measure")}
    done = forward_flops(VitSettings(), *results.get(file, "size"))
    return found | {
        "forward_flops": Figure(
            "features, floating-point operations a core-second",
            1e3 * done / milliseconds["features, batched"] / threads,
            file,
        ),
        "propagation_core_seconds": Figure(
            "propagation, core-seconds a DAVIS frame", milliseconds["propagation"] * threads / 1e3, file
        ),
        "boundary_core_seconds": Figure(
            "boundary measure, core-seconds a frame and object", milliseconds["boundary measure"] / 1e3, file
        ),
    }


def _readers(results: _Results, assumed: AssumedSettings) -> dict[str, Figure | None]:
    what = "reader, samples a core-second"
    measured = results.of("reader.json").get("samples_per_core_second")
    stand_in = Figure(what, assumed.reader_samples, f"{NOT_MEASURED}: --assumed.reader_samples")
    return {
        "reader_samples": stand_in if measured is None else Figure(what, measured, "reader.json"),
        "gpu_reader_samples": _gpu(results, READER, "samples_per_second", "reader on a GPU, samples a second"),
        "gpu_feature_images": _gpu(results, FEATURES, "images_per_second", "features on a GPU, images a second"),
    }


def _gpu(results: _Results, stage: str, key: str, what: str) -> Figure | None:
    found = results.stage(stage)
    return None if found is None else Figure(what, found[key], "gpu.json")


def _step(results: _Results, assumed: AssumedSettings, architecture: str) -> dict[str, Figure | None]:
    """Speed and memory of the training step; the largest batch that was measured counts."""
    what = f"training, {TITLES[architecture]}, samples a second and GPU"
    for batch, compiled in STEPS[architecture]:
        step = results.stage(step_name(architecture, batch, compiled))
        if step is not None:
            what += f", batch {batch}"
            return {
                f"{architecture}_samples": Figure(what, batch / step["seconds"], "gpu.json"),
                f"{architecture}_memory_gb": Figure(
                    f"{TITLES[architecture]}, GB of a GPU, batch {batch}", step["peak_gb"], "gpu.json"
                ),
            }
    settings = TCoReSettings.model_validate({"backbone": {"architecture": architecture}})
    flops = step_flops(settings, 64) / 64
    source = f"{NOT_MEASURED}: --assumed.gpu_tflops over {flops / 1e9:.0f} GFLOP a sample"
    return {
        f"{architecture}_samples": Figure(what, 1e12 * assumed.gpu_tflops / flops, source),
        f"{architecture}_memory_gb": None,
    }


def read_figures(folder: Path, assumed: AssumedSettings) -> Figures:
    """The figures in the JSON files of `folder`.

    Raises:
        UserError: a file or a figure in it that must be there is missing.
    """
    results = _Results(folder)
    listings = results.get("listing.json", "inputs").items()
    found: dict[str, Any] = (
        _shards(results)
        | _sizes(results)
        | _search_and_evaluation(results)
        | _readers(results, assumed)
        | _step(results, assumed, "small")
        | _step(results, assumed, "base")
    )
    return Figures(
        **found,
        listing=tuple((float(inputs), listed["seconds"], listed["peak_mb"]) for inputs, listed in listings),
    )
