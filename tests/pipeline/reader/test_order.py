import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reader.order import visits

SMALL = st.integers(1, 40)


@given(seed=st.integers(0, 2**40), samples=SMALL, batch=SMALL, epochs=st.integers(1, 3))
def test_every_sample_once_an_epoch(seed: int, samples: int, batch: int, epochs: int) -> None:
    steps = -(-samples * epochs // batch)
    parts = [visits(seed, step, batch, samples) for step in range(steps)]
    rows = np.concatenate([part.row for part in parts])[: samples * epochs]
    assert (np.sort(rows.reshape(epochs, samples), axis=1) == np.arange(samples)).all()
    assert (
        np.concatenate([part.epoch for part in parts])[: samples * epochs] == np.repeat(range(epochs), samples)
    ).all()


@given(samples=SMALL, batch=SMALL, step=st.integers(0, 50))
def test_order_does_not_depend_on_the_batch_size(samples: int, batch: int, step: int) -> None:
    whole = visits(5, step, batch, samples)
    single = [visits(5, position, 1, samples) for position in range(step * batch, (step + 1) * batch)]
    assert whole.row.tolist() == [int(part.row[0]) for part in single]


def test_epochs_differ() -> None:
    assert (visits(0, 0, 100, 100).row != visits(0, 1, 100, 100).row).any()
