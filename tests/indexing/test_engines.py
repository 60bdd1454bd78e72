import numpy as np
import pytest

from indexing.engines import GpuNearest, best_of_parts, cpu_nearest, gpu_count, make_nearest
from indexing.search import Rules
from pipeline.settings import UserError
from tests.indexing.made import unit_vectors
from tests.indexing.test_search import check, search_in_blocks


def test_parts_of_several_devices_are_one_search() -> None:
    features = unit_vectors(50)
    parts = []
    for start, stop in ((0, 20), (20, 23), (23, 50)):
        similarity, positions = cpu_nearest(features, features[start:stop], min(6, stop - start))
        parts.append((similarity, positions + start))
    similarity, positions = best_of_parts(parts, 6)
    expected, expected_positions = cpu_nearest(features, features, 6)
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    np.testing.assert_array_equal(positions, expected_positions)


def test_a_gpu_that_is_not_there_is_one_sentence() -> None:
    if gpu_count():
        pytest.skip("this machine has a GPU")
    assert make_nearest("auto") is cpu_nearest
    with pytest.raises(UserError, match=r"search\.device = gpu, but FAISS finds no GPU"):
        make_nearest("gpu")


@pytest.mark.gpu
def test_gpu_finds_the_rows_of_the_cpu() -> None:
    if not gpu_count():
        pytest.skip("needs an NVIDIA GPU and the GPU wheel of FAISS")
    features, rules = unit_vectors(20_000, 384), Rules(k=5)
    edges, queries = [0, 12_000, 20_000], [0, 500]
    expected = search_in_blocks(features, rules, edges, queries)
    for gpus in {1, gpu_count()}:
        check(search_in_blocks(features, rules, edges, queries, GpuNearest(gpus)), expected)
