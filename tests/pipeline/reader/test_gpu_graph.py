"""What of the GPU's graphs shows without a GPU: they can be put together, and their color operations are the CPU's."""

from typing import Any

import numpy as np
import pytest
from nvidia.dali import Pipeline
from nvidia.dali.data_node import DataNode

from indexing.extract import crop_graph
from pipeline.reader import graph
from tests.pipeline.reader.test_graph import WHOLE, run, squares

ON_THE_CPU = {"ExternalSource", "Reshape"}
"""Operators that only pass on encoded frames and parameters."""


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Devices of each operator of the reader's and the features' graphs for GPU 0, which are not built for a device."""
    monkeypatch.setattr(Pipeline, "build", Pipeline._build_graph)
    built = [
        graph.build_graph(4, dict, threads=1, device_id=0, prefetch=2),
        crop_graph(lambda: [], size=32, batch_size=2, threads=1, device=0),
    ]
    devices: dict[str, set[str]] = {}
    for operator in (operator for pipeline in built for operator in pipeline._ops):
        devices.setdefault(operator.name.strip("_").rpartition("_")[0], set()).update(
            output.device for output in operator._outputs
        )
    return devices


def test_all_pixels_are_decoded_and_changed_on_the_gpu(operators: dict[str, set[str]]) -> None:
    assert operators.keys() >= {"Image", "Slice", "Resize", "CoordTransform", "Filter", "CropMirrorNormalize"}
    on_cpu = {name for name, devices in operators.items() if "cpu" in devices}
    assert on_cpu == ON_THE_CPU | {"Split"}, "conditions on frames and parameters"
    assert operators["Split"] == {"cpu", "gpu"}


def test_colors_of_the_gpu_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    colored = {"brightness": 1.2, "contrast": 0.8, "saturation": 1.1, "hue": 0.05}
    cases: list[dict[str, Any]] = [colored, {"contrast": 1.4, "gray": True}, {**colored, "sigma": 1.0, "solarize": 128}]
    arguments = ([squares()[0][0]] * 3, [WHOLE] * 3, cases, 32)
    expected = run(*arguments)
    color_of_cpu, branches = graph._color, []

    def color(crop: DataNode, inputs: dict[str, DataNode], on_gpu: bool) -> DataNode:
        branches.append(on_gpu)
        return color_of_cpu(crop, inputs, True)

    monkeypatch.setattr(graph, "_color", color)
    monkeypatch.setattr(DataNode, "gpu", lambda node: node)
    for ours, theirs in zip(run(*arguments), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert branches == [False]
