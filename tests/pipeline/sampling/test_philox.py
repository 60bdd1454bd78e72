import numpy as np
import pytest

from pipeline.sampling.philox import Stream, permutation, philox_words, uniforms


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [  # known answers of the Random123 distribution, philox4x32-10
        ((0, 0), (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 2, (2**32 - 1,) * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(key: tuple[int, int], counter: tuple[int, ...], expected: str) -> None:
    words = philox_words(key, np.array(counter, np.uint64)[:, None])
    assert " ".join(f"{int(word):08x}" for word in words[:, 0]) == expected


def test_numbers_do_not_depend_on_the_other_items_drawn() -> None:
    many = uniforms(7, Stream.SAMPLE, 3, np.arange(100), 50)
    assert (uniforms(7, Stream.SAMPLE, [3, 3], [41, 99], 50) == many[[41, 99]]).all()
    assert (uniforms(7, Stream.SAMPLE, 3, 41, 10) == many[41, :10]).all()
    assert ((many >= 0) & (many < 1)).all()


def test_seed_stream_epoch_and_item_all_matter() -> None:
    keys = [(0, Stream.SAMPLE, 0, 0), (1, Stream.SAMPLE, 0, 0), (0, Stream.ORDER, 0, 0)]
    keys += [(0, Stream.SAMPLE, 1, 0), (0, Stream.SAMPLE, 0, 1), (2**40, Stream.SAMPLE, 0, 0)]
    drawn = np.concatenate([uniforms(*key, 8) for key in keys])
    assert len(np.unique(drawn)) == drawn.size


def test_permutation_holds_each_number_once_and_is_uniform() -> None:
    assert sorted(permutation(0, Stream.ORDER, 0, 0, 1000)) == list(range(1000))
    first = np.array([permutation(0, Stream.ORDER, epoch, 0, 5)[0] for epoch in range(2000)])
    counts = np.bincount(first, minlength=5)
    assert ((counts - 400) ** 2 / 400).sum() < 23.5  # chi-square, 4 degrees of freedom, p = 1e-4


def test_datasets_and_streams_have_different_permutations() -> None:
    keys = [(Stream.ORDER, 0, 0), (Stream.ORDER, 0, 1), (Stream.SHARDS, 0, 0), (Stream.ORDER, 1, 0)]
    assert len({tuple(permutation(0, *key, 50)) for key in keys}) == 4
