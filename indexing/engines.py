"""FAISS as the float32 search of `indexing.search`: on the CPU or on all GPUs of a machine."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from indexing.search import Block, Nearest
from pipeline.gpus import refuse_unusable_gpu
from pipeline.settings import UserError

Device = Literal["auto", "cpu", "gpu"]
Proposal = tuple[NDArray[np.float32], NDArray[np.int64]]
"""(n, c) inner products in float32, descending, and the positions of the rows."""

_SENT_BYTES = 2**30
"""Rows that do not stay on a GPU are sent in pieces of this size."""
_WORKING_BYTES = 2 * _SENT_BYTES
"""GPU memory for such a piece, queries and results, beside the scratch space that FAISS takes first."""


def cpu_nearest(queries: NDArray[np.float32], base: Block, count: int) -> Proposal:
    """The `Nearest` of FAISS's flat index, with FAISS's threads."""
    similarity, positions = faiss.knn(queries, base.features, count, metric=faiss.METRIC_INNER_PRODUCT)
    return similarity, positions


def free_gpu_memory(device: int) -> int:
    """Free bytes of a GPU, by the CUDA runtime that FAISS was linked to (FAISS's Python module does not tell).

    Raises:
        UserError: the driver does not answer.
    """
    runtime = ctypes.CDLL(faiss._swigfaiss.__file__)  # type: ignore[attr-defined]
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if status := runtime.cudaSetDevice(device) or runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)):
        raise UserError(f"GPU {device} does not tell its free memory (CUDA error {status}): give search.device = cpu")
    return free.value


class _Gpu:
    """A GPU that keeps the first rows of what it searches, as many as fit its memory."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._resources = faiss.StandardGpuResources()
        self._config = faiss.GpuIndexFlatConfig()
        self._config.device = device
        self._room: int | None = None
        self._kept: dict[int, Any] = {}

    def _index(self, base: Block) -> Any:  # noqa: ANN401 - FAISS has no types
        """The index of the rows of `base` that stay, filled at the first search of `base`."""
        if base.first not in self._kept:
            rows, width = base.features.shape
            index = faiss.GpuIndexFlatIP(self._resources, width, self._config)
            if self._room is None:  # now that FAISS has taken its scratch space
                self._room = free_gpu_memory(self._device) - _WORKING_BYTES
            of_a_row = 4 * (width + 1)  # FAISS adds the norm
            kept = min(rows, max(0, self._room // of_a_row))
            if kept:
                index.add(base.features[:kept])
            self._room -= kept * of_a_row
            self._kept[base.first] = index
        return self._kept[base.first]

    def search(self, queries: NDArray[np.float32], base: Block, count: int) -> Proposal:
        """See `Nearest`."""
        index, features = self._index(base), base.features
        parts: list[Proposal] = []
        if index.ntotal:
            parts.append(index.search(queries, min(count, index.ntotal)))
        step = max(1, _SENT_BYTES // features[:1].nbytes)
        for start in range(index.ntotal, len(features), step):
            piece = features[start : start + step]
            similarity, positions = faiss.knn_gpu(
                self._resources,
                queries,
                piece,
                min(count, len(piece)),
                metric=faiss.METRIC_INNER_PRODUCT,
                device=self._device,
            )
            parts.append((similarity, positions + start))
        return best_of_parts(parts, count)


class GpuNearest:
    """The `Nearest` that gives each of the GPUs an equal part of the base, which stays there as far as it fits."""

    def __init__(self, gpus: int) -> None:
        self._gpus = [_Gpu(device) for device in range(gpus)]
        self._threads = ThreadPoolExecutor(gpus)

    def __call__(self, queries: NDArray[np.float32], base: Block, count: int) -> Proposal:
        """See `Nearest`."""
        edges = np.linspace(0, len(base.features), len(self._gpus) + 1).astype(int).tolist()

        def search_part(number: int) -> Proposal:
            start, stop = edges[number], edges[number + 1]
            part = Block(base.first + start, base.features[start:stop])
            similarity, positions = self._gpus[number].search(queries, part, count)
            return similarity, positions + start

        used = [number for number in range(len(self._gpus)) if edges[number] < edges[number + 1]]
        return best_of_parts(list(self._threads.map(search_part, used)), count)


def best_of_parts(parts: list[Proposal], count: int) -> Proposal:
    """The `count` largest of the (n, c) similarities of several parts, descending, with their positions."""
    if len(parts) == 1:
        return parts[0]
    similarity, positions = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(similarity, order, 1), np.take_along_axis(positions, order, 1)


def gpu_count() -> int:
    """GPUs that this FAISS can use; none with the CPU wheel."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def make_nearest(device: Device) -> Nearest:
    """The search on `device`; `auto` takes the GPUs if there are any that the wheel of FAISS is made for.

    Raises:
        UserError: `gpu` is chosen and FAISS finds none, or the GPU wheel cannot use the GPU that there is.
    """
    assert device in get_args(Device)
    gpus = 0 if device == "cpu" else gpu_count()
    if device == "gpu" and not gpus:
        raise UserError(
            "search.device = gpu, but FAISS finds no GPU: install with `make setup FAISS=gpu` on a machine that has "
            "one, or leave search.device = auto"
        )
    if device == "auto" and not gpus and hasattr(faiss, "StandardGpuResources"):
        refuse_unusable_gpu(f"FAISS {faiss.__version__}", os.environ)
    return GpuNearest(gpus) if gpus else cpu_nearest
