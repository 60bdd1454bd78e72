import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sampling.order import DatasetSize, OrderSettings, interleave, sample_order, upcoming_shards

SMALL = st.integers(1, 40)
SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=9).map(tuple)
ORDERS = st.builds(OrderSettings, kind=st.sampled_from(["global", "window"]), window=st.integers(1, 5))
GLOBAL = OrderSettings()


@given(order=ORDERS, seed=st.integers(0, 2**40), shards=SHARDS, epochs=st.integers(1, 3))
def test_every_sample_once_an_epoch(order: OrderSettings, seed: int, shards: tuple[int, ...], epochs: int) -> None:
    samples = sum(shards)
    result = sample_order(order, seed, np.arange(samples * epochs), [DatasetSize(shards)])
    assert (np.sort(result.row.reshape(epochs, samples), axis=1) == np.arange(samples)).all()
    assert (result.epoch == np.repeat(range(epochs), samples)).all()


@given(order=ORDERS, shards=SHARDS, batch=SMALL, step=st.integers(0, 50), weight=st.floats(0.01, 100))
def test_a_position_has_the_same_sample_in_any_batch(
    order: OrderSettings, shards: tuple[int, ...], batch: int, step: int, weight: float
) -> None:
    dataset_sizes = [DatasetSize(shards, weight), DatasetSize((3, 4))]
    positions = np.arange(step * batch, (step + 1) * batch)
    whole = sample_order(order, 5, positions, dataset_sizes)
    single = [sample_order(order, 5, positions[i : i + 1], dataset_sizes) for i in range(batch)]
    assert whole.row.tolist() == [int(order.row[0]) for order in single]
    assert whole.epoch.tolist() == [int(order.epoch[0]) for order in single]


def test_epochs_differ() -> None:
    result = sample_order(GLOBAL, 0, np.arange(200), [DatasetSize((100,))])
    assert (result.row[:100] != result.row[100:]).any()


@given(shards=SHARDS, window=st.integers(1, 5), epoch=st.integers(0, 3))
def test_windows_are_read_one_after_the_other(shards: tuple[int, ...], window: int, epoch: int) -> None:
    samples = sum(shards)
    order = OrderSettings(kind="window", window=window)
    rows = sample_order(order, 1, np.arange(epoch * samples, (epoch + 1) * samples), [DatasetSize(shards)]).row
    shard = np.repeat(np.arange(len(shards)), shards)[rows].tolist()
    order_of_shards, start = list(dict.fromkeys(shard)), 0
    for first in range(0, len(shards), window):
        group = order_of_shards[first : first + window]
        end = start + sum(shards[number] for number in group)
        assert set(shard[start:end]) == set(group), "a window holds whole shards"
        start = end


def test_samples_of_a_window_are_mixed_and_its_shards_change() -> None:
    order = OrderSettings(kind="window", window=4)
    epochs = sample_order(order, 0, np.arange(2 * 1600), [DatasetSize((100,) * 16)]).row.reshape(2, 1600) // 100
    for epoch in epochs:
        counts = np.bincount(epoch[:200], minlength=16)
        assert (counts > 0).sum() == 4
        # 50 expected of each of 4 shards, standard deviation 4.3
        assert counts[counts > 0].min() > 50 - 5 * 4.3
    assert set(epochs[0, :400]) != set(epochs[1, :400])


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=4),
    start=st.integers(0, 10**9),
    count=st.integers(1, 300),
)
def test_every_range_has_its_share_of_every_dataset(weights: list[float], start: int, count: int) -> None:
    dataset, index = interleave(np.arange(start, start + count), weights)
    for number, weight in enumerate(weights):
        own = index[dataset == number]
        assert abs(len(own) - count * weight / sum(weights)) < len(weights)
        assert (np.diff(own) == 1).all(), "no sample is left out or repeated"
        if start == 0 and len(own):
            assert own[0] == 0


def test_datasets_of_a_mixture_have_their_own_epochs() -> None:
    dataset_sizes = [DatasetSize((30,), 3.0), DatasetSize((5, 5), 1.0)]
    result = sample_order(GLOBAL, 0, np.arange(80), dataset_sizes)
    second = result.row >= 30
    assert second.sum() == 20
    assert np.bincount(result.row[second] - 30).tolist() == [2] * 10
    assert np.bincount(result.row[~second]).tolist() == [2] * 30
    assert result.epoch[second].tolist() == [0] * 10 + [1] * 10


def test_datasets_of_equal_size_have_different_orders() -> None:
    result = sample_order(GLOBAL, 0, np.arange(200), [DatasetSize((100,)), DatasetSize((100,))])
    assert (result.row[result.row < 100] != result.row[result.row >= 100] - 100).any()


@given(shards=SHARDS, window=st.integers(1, 4), start=st.integers(0, 200), count=st.integers(1, 30))
def test_upcoming_shards_include_those_of_the_positions(
    shards: tuple[int, ...], window: int, start: int, count: int
) -> None:
    order = OrderSettings(kind="window", window=window)
    dataset_sizes = [DatasetSize(shards), DatasetSize((2, 2), 0.5)]
    of_row = [(0, s) for s, samples in enumerate(shards) for _ in range(samples)] + [(1, 0)] * 2 + [(1, 1)] * 2
    positions = np.arange(start, start + count)
    now = {of_row[row] for row in sample_order(order, 7, positions, dataset_sizes).row}
    assert now <= set(upcoming_shards(order, 7, positions, dataset_sizes))


@given(start=st.integers(0, 100), count=st.integers(1, 30))
def test_upcoming_shards_are_those_windows_and_the_next(start: int, count: int) -> None:
    order, dataset_sizes = OrderSettings(kind="window", window=3), [DatasetSize((2,) * 9)]  # 6 samples per window
    first, beyond = start // 6 * 6, ((start + count - 1) // 6 + 2) * 6
    expected = sample_order(order, 7, np.arange(first, beyond), dataset_sizes).row // 2
    coming = upcoming_shards(order, 7, np.arange(start, start + count), dataset_sizes)
    assert {shard for _, shard in coming} == set(expected.tolist())
    assert {shard for _, shard in coming[:3]} == set(expected[:6].tolist()), "in the order of their use"


@pytest.mark.parametrize("kind", ["global", "window"])
def test_a_million_samples_have_no_repeats_within_an_epoch(kind: str) -> None:
    order = OrderSettings.model_validate({"kind": kind})
    dataset_sizes = [DatasetSize((1000,) * 1000)]
    rows = np.concatenate(
        [sample_order(order, 0, np.arange(step * 256, step * 256 + 256), dataset_sizes).row for step in (0, 9)]
    )
    assert len(np.unique(rows)) == 512
