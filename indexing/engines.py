"""FAISS as the float32 search of `indexing.search`: on the CPU or on all GPUs of a machine."""

from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from indexing.search import Nearest
from pipeline.settings import UserError

Device = Literal["auto", "cpu", "gpu"]


def cpu_nearest(
    queries: NDArray[np.float32], base: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `Nearest` of FAISS's flat index, with FAISS's threads."""
    similarity, positions = faiss.knn(queries, base, count, metric=faiss.METRIC_INNER_PRODUCT)
    return similarity, positions


class GpuNearest:
    """The `Nearest` that gives each of the GPUs an equal part of the base."""

    def __init__(self, gpus: int) -> None:
        self._resources = [faiss.StandardGpuResources() for _ in range(gpus)]
        self._threads = ThreadPoolExecutor(gpus)

    def __call__(
        self, queries: NDArray[np.float32], base: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `Nearest`."""
        edges = np.linspace(0, len(base), len(self._resources) + 1).astype(int).tolist()

        def search_part(gpu: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            part = base[edges[gpu] : edges[gpu + 1]]
            similarity, positions = faiss.knn_gpu(
                self._resources[gpu],
                queries,
                part,
                min(count, len(part)),
                metric=faiss.METRIC_INNER_PRODUCT,
                device=gpu,
            )
            return similarity, positions + edges[gpu]

        used = [gpu for gpu in range(len(self._resources)) if edges[gpu] < edges[gpu + 1]]
        return best_of_parts(list(self._threads.map(search_part, used)), count)


def best_of_parts(
    parts: list[tuple[NDArray[np.float32], NDArray[np.int64]]], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The `count` largest of the (n, c) similarities of several parts, descending, with their positions."""
    similarity, positions = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(similarity, order, 1), np.take_along_axis(positions, order, 1)


def gpu_count() -> int:
    """GPUs that this FAISS can use; none with the CPU wheel."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def make_nearest(device: Device) -> Nearest:
    """The search on `device`; `auto` takes the GPUs if there are any.

    Raises:
        UserError: `gpu` is chosen and FAISS finds none.
    """
    assert device in get_args(Device)
    gpus = 0 if device == "cpu" else gpu_count()
    if device == "gpu" and not gpus:
        raise UserError(
            "search.device = gpu, but FAISS finds no GPU: install with `make setup FAISS=gpu` on a machine that has "
            "one, or leave search.device = auto"
        )
    return GpuNearest(gpus) if gpus else cpu_nearest
