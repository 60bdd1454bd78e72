from typing import Any

import faiss
import numpy as np
import pytest

from indexing import engines
from indexing.engines import GpuNearest, best_of_parts, cpu_nearest, gpu_count, make_nearest
from indexing.search import MARGIN, MOST_CANDIDATES, Block, Neighbours, Rules
from pipeline.settings import UserError
from tests.indexing.made import unit_vectors
from tests.indexing.oracle import all_neighbours
from tests.indexing.test_search import check, search_in_blocks


def test_parts_of_several_devices_are_one_search() -> None:
    features = unit_vectors(50)
    parts = []
    for start, stop in ((0, 20), (20, 23), (23, 50)):
        similarity, positions = cpu_nearest(features, Block(start, features[start:stop]), min(6, stop - start))
        parts.append((similarity, positions + start))
    similarity, positions = best_of_parts(parts, 6)
    expected, expected_positions = cpu_nearest(features, Block(0, features), 6)
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    np.testing.assert_array_equal(positions, expected_positions)


class PretendedIndex:
    """FAISS's flat index with an account of what would be on a GPU."""

    def __init__(self, gpus: "PretendedGpus", width: int, device: int) -> None:
        self._gpus, self._device, self._index = gpus, device, faiss.IndexFlatIP(width)

    @property
    def ntotal(self) -> int:
        return int(self._index.ntotal)

    def add(self, vectors: np.ndarray) -> None:
        self._index.add(vectors)
        self._gpus.added[self._device] = self._gpus.added.get(self._device, 0) + vectors.nbytes

    def search(self, queries: np.ndarray, count: int) -> Any:
        assert count <= MOST_CANDIDATES
        return self._index.search(queries, count)


class PretendedGpus:
    """FAISS's GPU classes on the CPU, which keep account of what would be in the memory of each GPU."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.added: dict[int, int] = {}
        """Bytes of vectors that stay on a GPU."""
        self.sent = 0
        """Bytes of vectors that were sent for one search."""

    def free(self, device: int) -> int:
        return self.memory - self.added.get(device, 0)

    def index(self, resources: object, width: int, config: Any) -> Any:
        return PretendedIndex(self, width, config.device)

    def knn(
        self, resources: object, queries: np.ndarray, base: np.ndarray, count: int, metric: int, device: int
    ) -> Any:
        assert count <= MOST_CANDIDATES
        assert base.nbytes <= engines._SENT_BYTES
        self.sent += base.nbytes
        return faiss.knn(queries, base, count, metric=metric)


def pretend(monkeypatch: pytest.MonkeyPatch, memory: int) -> PretendedGpus:
    gpus = PretendedGpus(memory + 2**14)
    monkeypatch.setattr(engines, "_WORKING_BYTES", 2**14)
    monkeypatch.setattr(engines, "_SENT_BYTES", 2**13)
    monkeypatch.setattr(engines, "free_gpu_memory", gpus.free)
    for name, stand_in in (
        ("StandardGpuResources", object),
        ("GpuIndexFlatConfig", type("Config", (), {})),
        ("GpuIndexFlatIP", gpus.index),
        ("knn_gpu", gpus.knn),
    ):
        monkeypatch.setattr(faiss, name, stand_in, raising=False)
    return gpus


WIDTH = 16
ROWS = 1000
BYTES = 4 * WIDTH * ROWS


@pytest.mark.parametrize("gpus", [1, 3])
@pytest.mark.parametrize("memory", [2 * BYTES, BYTES // 5, 0])
@pytest.mark.parametrize("edges", [[0, ROWS], [0, 300, 302, ROWS]])
def test_rows_stay_on_the_gpus_as_far_as_they_fit(
    gpus: int, memory: int, edges: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended, features, rules = pretend(monkeypatch, memory), unit_vectors(ROWS, WIDTH), Rules(k=5)
    blocks = [0, 400, 800, ROWS]
    check(search_in_blocks(features, rules, edges, blocks, GpuNearest(gpus)), all_neighbours(features, rules))
    kept = sum(pretended.added.values())
    assert max(pretended.added.values(), default=0) <= memory
    assert kept + pretended.sent / (len(blocks) - 1) == BYTES, "every row is either kept or sent with each block"
    if memory > BYTES:
        assert kept == BYTES
    else:
        assert kept == pytest.approx(gpus * memory, abs=gpus * 4 * WIDTH * 20)


def test_a_gpu_is_asked_for_as_many_rows_as_it_can_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2**20)
    features, rules = unit_vectors(2100, 4), Rules(k=2048)
    assert rules.k + 1 + MARGIN > MOST_CANDIDATES
    expected = all_neighbours(features, rules)
    result = search_in_blocks(features, rules, [0, 2100], [0, 20], GpuNearest(1))
    check(result, Neighbours(expected.rows[:20], expected.similarity[:20]))


def test_a_gpu_that_is_not_there_is_one_sentence() -> None:
    if gpu_count():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"search\.device = gpu, but FAISS finds no GPU"):
        make_nearest("gpu")


def test_the_gpu_wheel_does_not_search_on_the_cpu_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pipeline.gpus.has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    assert make_nearest("auto") is cpu_nearest, "the CPU wheel was chosen"
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    with pytest.raises(UserError, match=r"has an NVIDIA GPU that FAISS .* cannot use"):
        make_nearest("auto")
    assert make_nearest("cpu") is cpu_nearest


@pytest.mark.gpu
def test_gpu_finds_the_rows_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if not gpu_count():
        pytest.skip("needs an NVIDIA GPU and the GPU wheel of FAISS")
    features, rules = unit_vectors(20_000, 384), Rules(k=5)
    edges, queries = [0, 12_000, 20_000], [0, 250, 500]
    expected = search_in_blocks(features, rules, edges, queries)
    for gpus in {1, gpu_count()}:
        check(search_in_blocks(features, rules, edges, queries, GpuNearest(gpus)), expected)
    monkeypatch.setattr(engines, "free_gpu_memory", lambda device: 0)
    check(search_in_blocks(features, rules, edges, queries, GpuNearest(1)), expected)
