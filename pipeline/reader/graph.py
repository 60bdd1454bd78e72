"""The DALI graph that executes a plan: encoded frames and parameter arrays in, normalised views out.

One definition serves the CPU and the GPU. Every frame is decoded once, every crop is resized once, and what a plan does
not need is neither decoded nor coloured.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nvidia.dali import Pipeline, fn, math, pipeline_def, types
from nvidia.dali.data_node import DataNode

from pipeline.reader.colour import BLUR_TAPS
from pipeline.reader.views import GLOBAL_VIEWS, IMAGENET_MEAN, IMAGENET_STD, LOCAL_KIND, ViewSettings

NORMALISATION: dict[str, Any] = {
    "dtype": types.FLOAT,
    "output_layout": "CHW",
    "mean": [255 * value for value in IMAGENET_MEAN],
    "std": [255 * value for value in IMAGENET_STD],
}
"""Arguments of `fn.crop_mirror_normalize` for pixels from 0 to 255."""

Feed = dict[str, Any]
"""One batch of graph inputs by name: a list of (size,) uint8 arrays, or an array with one row per sample."""


class CropSpec(NamedTuple):
    """A crop of a frame and the views made of it."""

    size: int
    """Side in pixels."""
    kinds: tuple[int, ...]
    """Kind of each view: 0 global crop 1, 1 global crop 2, 2 local crop."""


class FrameSpec(NamedTuple):
    """A frame and the crops made of it; the views of an `optional` frame may be left out sample by sample."""

    name: str
    crops: tuple[CropSpec, ...]
    optional: bool = False


def auxiliary_names(auxiliary: int) -> list[str]:
    """Names of the auxiliary frames in a feed."""
    return [f"auxiliary{number}" for number in range(auxiliary)]


def frame_specs(views: ViewSettings, auxiliary: int) -> list[FrameSpec]:
    """What is made of the current frame and of the auxiliary ones, whose two views share a crop."""
    global_crops = [CropSpec(views.global_size, (kind,)) for kind in range(GLOBAL_VIEWS)]
    current = (*global_crops, *[CropSpec(views.local_size, (LOCAL_KIND,))] * views.local_crops)
    shared = (CropSpec(views.global_size, tuple(range(GLOBAL_VIEWS))),)
    return [FrameSpec("current", current), *(FrameSpec(name, shared, True) for name in auxiliary_names(auxiliary))]


def _inputs(frames: Sequence[FrameSpec], views: ViewSettings) -> dict[str, tuple[Any, int]]:
    """(DALI type, dimensions) of all inputs of the graph, in their order."""
    inputs: dict[str, tuple[Any, int]] = {}
    for frame in frames:
        inputs[frame.name] = (types.UINT8, 1)
        if frame.optional:
            inputs[f"{frame.name}.needed"] = (types.BOOL, 0)
        for number, crop in enumerate(frame.crops):
            prefix = f"{frame.name}.{number}"
            inputs |= {f"{prefix}.start": (types.INT32, 1), f"{prefix}.shape": (types.INT32, 1)}
            for view, kind in enumerate(crop.kinds):
                here = {"matrix": (types.FLOAT, 2), "weights": (types.FLOAT, 1), "coloured": (types.BOOL, 0)}
                here |= {"kernel": (types.FLOAT, 2), "blurred": (types.BOOL, 0)}
                if views.solarize[kind] > 0:
                    here["solarized"] = (types.BOOL, 0)
                if kind == LOCAL_KIND:
                    here["mirror"] = (types.INT32, 0)
                if frame.optional:
                    here["needed"] = (types.BOOL, 0)
                inputs |= {f"{prefix}.{view}.{name}": value for name, value in here.items()}
    return inputs


def _crop(image: DataNode, start: DataNode, shape: DataNode, size: int) -> DataNode:
    """Cut out and resize as Pillow does: the filter sees nothing outside the crop."""
    cut = fn.slice(image, start, shape, axes=(0, 1))
    return fn.resize(cut, size=(size, size), interp_type=types.INTERP_CUBIC, antialias=True)


def _view(crop: DataNode, given: dict[str, DataNode], on_gpu: bool) -> DataNode:
    """Colour, blur, solarize, mirror and normalise one view of a resized crop; see `pipeline.reader.colour`."""
    if given["coloured"]:  # per sample: DALI's conditional execution
        mean = fn.reductions.mean(crop, axes=(0, 1))
        if on_gpu:  # arguments of an operator must lie on the CPU
            pixels = fn.coord_transform(crop, M=given["matrix"]) + fn.reductions.sum(given["weights"].gpu() * mean)
        else:
            shift = fn.stack(*[fn.reductions.sum(given["weights"] * mean)] * 3)
            pixels = fn.coord_transform(crop, M=given["matrix"], T=shift)
        pixels = math.clamp(pixels, 0.0, 255.0)
    else:
        pixels = fn.cast(crop, dtype=types.FLOAT)
    if given["blurred"]:
        row, column = given["kernel"], fn.reshape(given["kernel"], shape=[BLUR_TAPS, 1])
        if on_gpu:
            row, column = row.gpu(), column.gpu()
        pixels = fn.filter(fn.filter(pixels, row, border="reflect_101"), column, border="reflect_101")
    if "solarized" in given:  # noqa: SIM102 - the outer one is decided when the graph is built
        if given["solarized"]:
            bright = pixels >= 127.5  # pixels are not rounded: 128 is the first bright level
            pixels = pixels + bright * (255.0 - 2.0 * pixels)
    return fn.crop_mirror_normalize(pixels, mirror=given.get("mirror", 0), **NORMALISATION)


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
    crops, then the 2 views of each auxiliary frame; each (batch_size, 3, size, size) float32, zeros where not needed.
    """
    on_gpu = device_id is not None
    device = "gpu" if on_gpu else "cpu"
    frames = frame_specs(views, auxiliary)
    inputs = _inputs(frames, views)

    def source() -> list[Any]:
        content = feed()
        return [content[name] for name in inputs]

    def decode(encoded: DataNode) -> DataNode:
        return fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB)

    def given(named: dict[str, DataNode], prefix: str) -> dict[str, DataNode]:
        return {name[len(prefix) :]: node for name, node in named.items() if name.startswith(prefix)}

    def required(frame: FrameSpec, named: dict[str, DataNode]) -> list[DataNode]:
        image = decode(named[frame.name])
        outputs = []
        for number, crop in enumerate(frame.crops):
            prefix = f"{frame.name}.{number}."
            pixels = _crop(image, named[f"{prefix}start"], named[f"{prefix}shape"], crop.size)
            outputs += [_view(pixels, given(named, f"{prefix}{view}."), on_gpu) for view in range(len(crop.kinds))]
        return outputs

    def zeros(size: int) -> DataNode:
        return fn.reshape(fn.zeros(shape=[3, size, size], dtype=types.FLOAT, device=device), layout="CHW")

    def optional(frame: FrameSpec, named: dict[str, DataNode]) -> list[DataNode]:
        (crop,) = frame.crops
        first, second = (given(named, f"{frame.name}.0.{view}.") for view in range(GLOBAL_VIEWS))
        if named[f"{frame.name}.needed"]:
            image = decode(named[frame.name])
            pixels = _crop(image, named[f"{frame.name}.0.start"], named[f"{frame.name}.0.shape"], crop.size)
            if first["needed"]:  # noqa: SIM108 - DALI traces statements
                view_1 = _view(pixels, first, on_gpu)
            else:
                view_1 = zeros(crop.size)
            if second["needed"]:  # noqa: SIM108
                view_2 = _view(pixels, second, on_gpu)
            else:
                view_2 = zeros(crop.size)
        else:
            view_1 = zeros(crop.size)
            view_2 = zeros(crop.size)
        return [view_1, view_2]

    @pipeline_def(  # type: ignore[untyped-decorator]
        enable_conditionals=True,
        batch_size=batch_size,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=prefetch,
        exec_dynamic=True,  # outputs stay valid for as long as a tensor refers to them
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
        for frame in frames:
            outputs += optional(frame, named) if frame.optional else required(frame, named)
        return tuple(outputs)

    pipeline: Pipeline = graph()
    pipeline.build()
    return pipeline
