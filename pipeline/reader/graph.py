"""The DALI graph that executes a plan: encoded frames and parameter arrays in, normalized views out.

One definition serves the CPU and the GPU. Every view is a sample of DALI's batch, so views of all kinds go through the
same few operators and are contiguous in memory. Every frame is decoded once; frames and views that a plan does not need
are skipped.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn, math, pipeline_def, types
from nvidia.dali.data_node import DataNode

from pipeline.reader.faults import FrameDecoder
from pipeline.reader.feed import Feed
from pipeline.sampling.color import BLUR_TAPS
from pipeline.sampling.views import IMAGENET_MEAN, IMAGENET_STD

NORMALIZATION: dict[str, Any] = {
    "dtype": types.FLOAT,
    "output_layout": "CHW",
    "mean": [255 * value for value in IMAGENET_MEAN],
    "std": [255 * value for value in IMAGENET_STD],
}
"""Arguments of `fn.crop_mirror_normalize` for pixels from 0 to 255."""

INPUTS: dict[str, tuple[Any, int]] = {
    "encoded": (types.UINT8, 1),
    "decoded": (types.BOOL, 0),
    "frame": (types.INT32, 0),
    "needed": (types.BOOL, 0),
    "start": (types.INT32, 1),
    "shape": (types.INT32, 1),
    "size": (types.FLOAT, 1),
    "matrix": (types.FLOAT, 2),
    "weights": (types.FLOAT, 1),
    "colored": (types.BOOL, 0),
    "kernel": (types.FLOAT, 2),
    "blurred": (types.BOOL, 0),
    "solarized": (types.BOOL, 0),
    "mirror": (types.INT32, 0),
}
"""DALI type and number of dimensions of each input of `Feed`."""

ENCODED = "encoded"
DALI_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)
"""Errors that DALI raises when one of its operators fails."""


def decode_frames(encoded: DataNode, on_gpu: bool) -> DataNode:
    """Decode JPEGs to the same pixels on CPU and GPU, up to rounding.

    EXIF orientation is not applied: it was when the shard was written. Chroma is upsampled by libjpeg's triangle
    filter, which the GPU's decoder otherwise replaces by repetition.
    """
    return fn.decoders.image(
        encoded,
        device="mixed" if on_gpu else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
    )


def build_decoder(device_id: int | None) -> Pipeline:
    """Build a pipeline that decodes one frame at a time, fed as the input `ENCODED`."""

    @pipeline_def(batch_size=1, num_threads=1, device_id=device_id, prefetch_queue_depth=1)  # type: ignore[untyped-decorator]
    def graph() -> DataNode:
        encoded = fn.external_source(name=ENCODED, dtype=types.UINT8, ndim=1)
        return decode_frames(encoded, on_gpu=device_id is not None)

    pipeline: Pipeline = graph()
    pipeline.build()
    return pipeline


def dali_decoder(device_id: int | None) -> FrameDecoder:
    """DALI's decoder for single frames, on the CPU or a GPU."""

    def open_decoder() -> Callable[[np.ndarray], tuple[int, int]]:
        pipeline = build_decoder(device_id)

        def size(jpeg: np.ndarray) -> tuple[int, int]:
            pipeline.feed_input(ENCODED, [jpeg])
            (image,) = pipeline.run()
            height, width, _ = image.shape()[0]
            return width, height

        return size

    return FrameDecoder("DALI", DALI_ERRORS, open_decoder)


def _crop(image: DataNode, inputs: dict[str, DataNode]) -> DataNode:
    """Crop and resize as Pillow does: the filter does not see pixels outside the crop."""
    cut = fn.slice(image, inputs["start"], inputs["shape"], axes=(0, 1))
    return fn.resize(cut, size=inputs["size"], interp_type=types.INTERP_CUBIC, antialias=True)


def _color(crop: DataNode, inputs: dict[str, DataNode], on_gpu: bool) -> DataNode:
    """Color, blur and solarize a resized crop; see `pipeline.sampling.color`."""
    if inputs["colored"]:  # per sample: DALI's conditional execution
        mean = fn.reductions.mean(crop, axes=(0, 1))
        if on_gpu:  # DALI takes arguments of an operator from the CPU only
            pixels = fn.coord_transform(crop, M=inputs["matrix"]) + fn.reductions.sum(inputs["weights"].gpu() * mean)
        else:
            shift = fn.stack(*[fn.reductions.sum(inputs["weights"] * mean)] * 3)
            pixels = fn.coord_transform(crop, M=inputs["matrix"], T=shift)
        pixels = math.clamp(pixels, 0.0, 255.0)
    else:
        pixels = fn.cast(crop, dtype=types.FLOAT)
    if inputs["blurred"]:
        row, column = inputs["kernel"], fn.reshape(inputs["kernel"], shape=[BLUR_TAPS, 1])
        if on_gpu:
            row, column = row.gpu(), column.gpu()
        pixels = fn.filter(fn.filter(pixels, row, border="reflect_101"), column, border="reflect_101")
    if inputs["solarized"]:
        bright = pixels >= 127.5  # pixels are not rounded: 128 is the first bright level
        pixels = pixels + bright * (255.0 - 2.0 * pixels)
    return pixels


def build_graph(
    batch_size: int, feed: Callable[[], Feed], threads: int, device_id: int | None, prefetch: int
) -> Pipeline:
    """Build the pipeline for batches of `batch_size` views; with a `device_id` it runs on that GPU, else on the CPU.

    `feed` is called once per batch and ends the epoch by raising StopIteration. The output is the views (3, size, size)
    float32 in one block of memory, zeros where not needed.
    """
    on_gpu = device_id is not None
    device = "gpu" if on_gpu else "cpu"

    def source() -> list[Any]:
        inputs = feed()
        return [inputs[name] for name in INPUTS]

    def one_pixel(color: list[float], dtype: Any) -> DataNode:  # noqa: ANN401 - a DALI type
        return types.Constant(color, dtype=dtype, shape=[1, 1, 3], layout="HWC", device=device)

    @pipeline_def(  # type: ignore[untyped-decorator]
        enable_conditionals=True,
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=prefetch,
        exec_dynamic=True,  # outputs stay valid for as long as a tensor refers to them
    )
    def graph() -> DataNode:
        nodes = fn.external_source(
            source=source,
            num_outputs=len(INPUTS),
            batch=True,
            dtype=[kind for kind, _ in INPUTS.values()],
            ndim=[dimensions for _, dimensions in INPUTS.values()],
        )
        inputs = dict(zip(INPUTS, nodes))  # noqa: B905 - DALI's conditionals do not trace `strict`
        if inputs["decoded"]:
            image = decode_frames(inputs["encoded"], on_gpu)
        else:
            image = one_pixel([0.0, 0.0, 0.0], types.UINT8)
        image = fn.permute_batch(image, indices=inputs["frame"])
        if inputs["needed"]:
            pixels = _color(_crop(image, inputs), inputs, on_gpu)
        else:  # the mean color, which is zero once normalized
            blank = one_pixel(NORMALIZATION["mean"], types.FLOAT)
            pixels = fn.resize(blank, size=inputs["size"], interp_type=types.INTERP_NN)
        return fn.crop_mirror_normalize(pixels, mirror=inputs["mirror"], **NORMALIZATION)

    pipeline: Pipeline = graph()
    pipeline.build()
    return pipeline
