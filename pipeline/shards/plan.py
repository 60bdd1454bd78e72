"""Which inputs go into which shard: a pure function of their paths and a seed."""

import hashlib
import os
from dataclasses import dataclass

from pipeline.shards.rejects import Reason
from pipeline.shards.sources import Media, Source


@dataclass(frozen=True)
class ShardPlan:
    """The inputs of one shard, in the order in which they are written."""

    name: str
    sources: list[Source]


@dataclass(frozen=True)
class Reject:
    """One row of `rejects.parquet`."""

    source: str
    reason: str
    detail: str


def _shuffle_rank(source: Source, seed: int) -> bytes:
    return hashlib.blake2b(os.fsencode(source.path), digest_size=16, key=seed.to_bytes(8, "big")).digest()


def default_samples_per_shard(media: Media, inputs: int) -> int:
    """A sixteenth of the inputs, so that small sets still keep all cores busy, within limits that suit large ones."""
    low, high = (4, 256) if media == "clips" else (32, 1024)
    return min(max(low, -(-inputs // 16)), high)


def plan_shards(
    sources: list[Source], name: str, samples_per_shard: int, seed: int
) -> tuple[list[ShardPlan], list[Reject]]:
    """Shuffle by a keyed hash of each path and cut into shards; inputs whose key is taken become rejects.

    Of several inputs with one key the first in path order stays. Shard names are `NAME-000000`, `NAME-000001`, ...
    """
    first: dict[str, Source] = {}
    rejects = []
    for source in sorted(sources, key=lambda s: os.fsencode(s.path)):
        kept = first.setdefault(source.key, source)
        if kept is not source:
            detail = f"the key {source.key} belongs to {kept.path}"
            rejects.append(Reject(source.path, Reason.DUPLICATE_KEY.value, detail))
    shuffled = sorted(first.values(), key=lambda s: _shuffle_rank(s, seed))
    chunks = [shuffled[i : i + samples_per_shard] for i in range(0, len(shuffled), samples_per_shard)]
    return [ShardPlan(f"{name}-{i:06d}", chunk) for i, chunk in enumerate(chunks)], rejects
