"""Counter-based random numbers: pure functions of seed, stream, epoch and item, computed for many items at once.

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). NumPy's Philox has one stream
per object; a batch needs one per sample.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

_ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_KEY_STEPS = np.array([0x9E3779B9, 0xBB67AE85], np.uint64) * np.arange(_ROUNDS, dtype=np.uint64)[:, None]
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_WORDS = 4


class Stream(IntEnum):
    """Purpose of the numbers; different streams never share draws."""

    ORDER = 0
    SAMPLE = 1
    MASK_SIZES = 2
    MASK_BLOCKS = 3
    TRIPLETS = 4
    SHARDS = 5


def philox_words(key: tuple[int, int], counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Philox4x32-10 of counters (4, n) below 2^32 under a key of two 32-bit words; words (4, n) below 2^32."""
    even, odd = counters[::2], counters[1::2]
    for round_key in (np.array(key, np.uint64) + _KEY_STEPS) & _LOW:
        products = _MULTIPLIERS * even
        even = (products >> _SHIFT)[::-1] ^ odd
        even ^= round_key[:, None]
        products &= _LOW
        odd = products[::-1]
    return np.stack([even, odd], axis=1).reshape(counters.shape)


def words(
    seed: int, stream: Stream, epochs: ArrayLike, items: ArrayLike, blocks: int, first_block: int = 0
) -> NDArray[np.uint64]:
    """(n, 4 * blocks) random words below 2^32 for n pairs of epoch and item (broadcast, each below 2^32)."""
    epoch, item = np.broadcast_arrays(np.asarray(epochs, np.uint64), np.asarray(items, np.uint64))
    counters = np.empty((_WORDS, item.size, blocks), np.uint64)
    counters[0] = np.arange(first_block, first_block + blocks, dtype=np.uint64)
    counters[1] = item.reshape(-1, 1)
    counters[2] = epoch.reshape(-1, 1)
    counters[3] = int(stream)
    key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
    return philox_words(key, counters.reshape(_WORDS, -1)).T.reshape(item.size, blocks * _WORDS)


def uniforms(
    seed: int, stream: Stream, epochs: ArrayLike, items: ArrayLike, draws: int, first: int = 0
) -> NDArray[np.float64]:
    """(n, draws) uniform numbers in [0, 1) for n pairs of epoch and item, with 32 random bits each.

    `first`, a multiple of 4, is the number of the first draw.
    """
    blocks = -(-draws // _WORDS)
    drawn = words(seed, stream, epochs, items, blocks, first // _WORDS)[:, :draws]
    return drawn.view(np.int64).astype(np.float64) * 2.0**-32  # signed numbers convert several times as fast


def permutation(seed: int, stream: Stream, epoch: int, dataset: int, count: int) -> NDArray[np.int64]:
    """Random order of 0..count-1, different for each dataset: the argsort of one random 64-bit word for each number."""
    pair = words(seed, stream, epoch, np.arange(count), 1, first_block=dataset)[:, :2]
    return np.argsort(pair[:, 0] << _SHIFT | pair[:, 1], kind="stable")
