from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.evaluation_reference import propagate_fully
from evaluation.propagation import Context, PropagationSettings, propagate
from tests.reference_data import read_arrays

CASES = ("davis_default", "davis_small_radius", "vip_like_lowT", "jhmdb_like")


def recorded_settings(case: str) -> PropagationSettings:
    arrays = read_arrays("eval_propagation")
    return PropagationSettings(
        n_context=int(arrays[f"{case}/n_context"]),
        top_k=int(arrays[f"{case}/topk"]),
        radius=float(arrays[f"{case}/radius"]),
        temperature=float(arrays[f"{case}/temperature"]),
    )


@pytest.mark.parametrize("case", CASES)
def test_soft_labels_are_the_recorded_ones(case: str) -> None:
    arrays = read_arrays("eval_propagation")
    features, first = (torch.from_numpy(arrays[f"{case}/{name}"]) for name in ("feats", "labels_first_frame"))
    soft = torch.stack(list(propagate(features, first, recorded_settings(case))))
    np.testing.assert_allclose(soft.numpy(), arrays[f"{case}/soft"], rtol=0, atol=1e-5)


def test_weights_and_their_cells_are_the_recorded_ones() -> None:
    arrays, case = read_arrays("eval_propagation"), "davis_small_radius"
    options = recorded_settings(case)
    unit = F.normalize(torch.from_numpy(arrays[f"{case}/feats"]), dim=-1)
    cells = unit.shape[1] * unit.shape[2]
    window = np.arange(options.n_context)
    context = Context(unit[0], options)
    for number in range(1, len(unit)):
        weights, result = (array.flatten(0, 1).T.numpy() for array in context.match(unit[number]))
        context.push(unit[number])
        np.testing.assert_allclose(weights, arrays[f"{case}/weights"][number], rtol=0, atol=1e-5)
        # Copies of the first frame tie, hence source frames are compared: our slots go round, the recorded ones slide.
        in_window = number - options.n_context + window
        ours = np.zeros(options.n_context + 1, int)
        ours[1 + (in_window - 1) % options.n_context] = np.maximum(in_window, 0)
        recorded = np.concatenate([[0], np.maximum(in_window, 0)])
        indices = arrays[f"{case}/indices"][number]
        np.testing.assert_array_equal(
            np.sort(ours[result // cells] * cells + result % cells, 0),
            np.sort(recorded[indices // cells] * cells + indices % cells, 0),
        )


@settings(max_examples=60, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 14)),
    frames=st.integers(1, 7),
    n_context=st.integers(1, 4),
    top_k=st.integers(1, 12),
    radius=st.sampled_from([0.5, 1.0, 2.0, 2.5, 5.0, 50.0]),
    shape=st.sampled_from(["open-circle", "circle", "square"]),
    limit_first_frame=st.booleans(),
    pad_context=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_full_affinity_matrix(
    grid: tuple[int, int],
    frames: int,
    n_context: int,
    top_k: int,
    radius: float,
    shape: Any,
    limit_first_frame: bool,
    pad_context: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, *grid, 6, generator=generator)
    first = torch.rand(*grid, 3, generator=generator)
    options = PropagationSettings(
        n_context=n_context,
        top_k=top_k,
        radius=radius,
        temperature=0.2,
        neighborhood=shape,
        limit_first_frame=limit_first_frame,
        pad_context=pad_context,
    )
    soft = list(propagate(features, first, options))
    torch.testing.assert_close(soft, propagate_fully(features, first, options), rtol=0, atol=1e-5)


def test_labels_stay_a_distribution_and_the_first_frame_keeps_its_own() -> None:
    first = torch.rand(4, 6, 3).softmax(-1)
    soft = list(propagate(torch.randn(9, 4, 6, 8), first, PropagationSettings(n_context=3)))
    torch.testing.assert_close(soft[0], first)
    torch.testing.assert_close(torch.stack(soft).sum(-1), torch.ones(9, 4, 6))


def test_frames_are_taken_one_by_one_and_not_kept() -> None:
    alive = 0

    class Counted(Tensor):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def clip() -> Iterator[Tensor]:
        nonlocal alive
        for _ in range(30):
            alive += 1
            assert alive <= 2
            yield torch.randn(3, 4, 5).as_subclass(Counted)

    assert sum(1 for _ in propagate(clip(), torch.rand(3, 4, 2), PropagationSettings(n_context=2))) == 30


def test_scale_and_precision_of_the_features_do_not_matter() -> None:
    features, first = torch.randn(4, 5, 7, 8).bfloat16(), torch.rand(5, 7, 2)
    soft = list(propagate(features, first, PropagationSettings()))
    assert soft[-1].dtype == torch.float32
    torch.testing.assert_close(list(propagate(features.double() * 1000, first, PropagationSettings())), soft)
