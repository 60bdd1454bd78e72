"""The DALI graph that executes a plan: encoded frames and parameter arrays in, normalised views out."""

from collections.abc import Callable
from typing import Any

import numpy as np
from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali.data_node import DataNode

from pipeline.reader.views import GLOBAL_VIEWS, IMAGENET_MEAN, IMAGENET_STD, ViewSettings

NORMALISATION: dict[str, Any] = {
    "dtype": types.FLOAT,
    "output_layout": "CHW",
    "mean": [255 * value for value in IMAGENET_MEAN],
    "std": [255 * value for value in IMAGENET_STD],
}
"""Arguments of `fn.crop_mirror_normalize` for uint8 pixels."""
BLUR_TAPS = 9

Feed = dict[str, Any]
"""One batch of graph inputs by name: a list of (size,) uint8 arrays, or an array with one row per sample."""


def auxiliary_names(auxiliary: int) -> list[str]:
    """Names of the auxiliary frames in a feed."""
    return [f"auxiliary{number}" for number in range(auxiliary)]


def view_counts(views: ViewSettings, auxiliary: int) -> dict[str, int]:
    """Number of views of each frame, in the order of the graph's outputs."""
    return {"current": GLOBAL_VIEWS + views.local_crops} | dict.fromkeys(auxiliary_names(auxiliary), GLOBAL_VIEWS)


def _view_inputs(frame: str, view: int, with_solarize: bool) -> dict[str, tuple[Any, int]]:
    """(DALI type, dimensions) of the parameters of one view."""
    inputs = {
        "start": (types.FLOAT, 1),
        "end": (types.FLOAT, 1),
        "mirror": (types.INT32, 0),
        "brightness": (types.FLOAT, 0),
        "contrast": (types.FLOAT, 0),
        "saturation": (types.FLOAT, 0),
        "hue": (types.FLOAT, 0),
        "blur": (types.BOOL, 0),
        "sigma": (types.FLOAT, 0),
    }
    if with_solarize:
        inputs["solarize"] = (types.INT32, 0)
    return {f"{frame}.{view}.{name}": kind for name, kind in inputs.items()}


def _inputs(views: ViewSettings, auxiliary: int) -> dict[str, tuple[Any, int]]:
    """All inputs of the graph in their order."""
    inputs: dict[str, tuple[Any, int]] = {}
    for frame, count in view_counts(views, auxiliary).items():
        inputs[frame] = (types.UINT8, 1)
        for view in range(count):
            inputs |= _view_inputs(frame, view, views.solarize[min(view, 2)] > 0)
    return inputs


def _view(image: DataNode, parameters: dict[str, DataNode], size: int, with_solarize: bool, device: str) -> DataNode:
    """Crop, resize, colour, blur, solarize, mirror and normalise one view of a decoded frame."""
    view = fn.resize(
        image,
        roi_start=parameters["start"],
        roi_end=parameters["end"],
        size=(size, size),
        interp_type=types.INTERP_CUBIC,
        antialias=True,
    )
    view = fn.color_twist(
        view,
        brightness=parameters["brightness"],
        contrast=parameters["contrast"],
        saturation=parameters["saturation"],
        hue=parameters["hue"],
    )
    if parameters["blur"]:  # per sample: DALI's conditional execution
        view = fn.gaussian_blur(view, sigma=parameters["sigma"], window_size=BLUR_TAPS)
    if with_solarize:
        threshold = parameters["solarize"].gpu() if device == "gpu" else parameters["solarize"]
        kept = view < threshold
        view = fn.cast(view * kept + (255 - view) * (kept ^ True), dtype=types.UINT8)
    return fn.crop_mirror_normalize(view, mirror=parameters["mirror"], **NORMALISATION)


def build_graph(
    views: ViewSettings,
    auxiliary: int,
    batch_size: int,
    feed: Callable[[], Feed],
    threads: int,
    device_id: int | None,
    prefetch: int,
) -> Pipeline:
    """Build the pipeline; with a `device_id` decoding and views run on that GPU, else on the CPU.

    `feed` is called once a batch and ends the epoch by raising StopIteration. Outputs: the 2 global crops, the local
    crops, then the 2 views of each auxiliary frame; each (batch_size, 3, size, size) float32.
    """
    device = "cpu" if device_id is None else "gpu"
    inputs = _inputs(views, auxiliary)

    def source() -> list[Any]:
        content = feed()
        return [content[name] for name in inputs]

    @pipeline_def(  # type: ignore[untyped-decorator]
        enable_conditionals=True,
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=prefetch,
    )
    def graph() -> tuple[DataNode, ...]:
        nodes = fn.external_source(
            source=source,
            num_outputs=len(inputs),
            batch=True,
            dtype=[kind for kind, _ in inputs.values()],
            ndim=[dimensions for _, dimensions in inputs.values()],
        )
        named = dict(zip(inputs, nodes))  # noqa: B905 - DALI's conditionals do not trace `strict`
        outputs = []
        for frame, count in view_counts(views, auxiliary).items():
            decoder = "cpu" if device_id is None else "mixed"
            image = fn.decoders.image(named[frame], device=decoder, output_type=types.RGB)
            for number in range(count):
                prefix = f"{frame}.{number}."
                parameters = {name[len(prefix) :]: node for name, node in named.items() if name.startswith(prefix)}
                size = views.global_size if number < GLOBAL_VIEWS else views.local_size
                outputs.append(_view(image, parameters, size, "solarize" in parameters, device))
        return tuple(outputs)

    pipeline: Pipeline = graph()
    pipeline.build()
    return pipeline


def view_feed(frame: str, view: int, parameters: dict[str, np.ndarray]) -> Feed:
    """Graph inputs of one view from its plan: the edges of its box, `mirror` and the photometry, (b,) each."""
    top, left = parameters["top"], parameters["left"]
    start = np.stack([top, left], axis=1).astype(np.float32)
    end = np.stack([top + parameters["height"], left + parameters["width"]], axis=1).astype(np.float32)
    values: Feed = {
        "start": start,
        "end": end,
        "mirror": parameters["mirror"].astype(np.int32),
        "brightness": parameters["brightness"].astype(np.float32),
        "contrast": parameters["contrast"].astype(np.float32),
        "saturation": parameters["saturation"].astype(np.float32),
        "hue": (360 * parameters["hue"]).astype(np.float32),
        "blur": parameters["sigma"] > 0,
        "sigma": parameters["sigma"].astype(np.float32),
        "solarize": parameters["solarize"].astype(np.int32),
    }
    return {f"{frame}.{view}.{name}": value for name, value in values.items()}
