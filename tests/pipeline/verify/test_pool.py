import os
import signal
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from pipeline.dataset import Shard
from pipeline.settings import UserError
from pipeline.verify.finding import Finding
from pipeline.verify.pool import check_all

SHARDS = [Shard(file=f"shard-{number:06d}.tar", samples=1, bytes=number, sha256="") for number in range(12)]


def slow_at_first(shard: Shard, rows: pa.Table | None) -> list[Finding]:
    time.sleep(0.5 if shard.bytes == 0 else 0)
    return [Finding(shard.file, str(os.getpid()), "")]


def dies(shard: Shard, rows: pa.Table | None) -> list[Finding]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def test_results_are_in_order_and_few_shards_are_in_flight() -> None:
    taken = 0

    def shards() -> Iterator[tuple[Shard, None]]:
        nonlocal taken
        for shard in SHARDS:
            taken += 1
            yield shard, None

    processes = set()
    for number, (shard, findings) in enumerate(check_all(slow_at_first, shards(), workers=2)):
        assert shard == SHARDS[number]
        assert [finding.file for finding in findings] == [shard.file]
        assert taken <= number + 1 + 4
        processes.add(findings[0].location)
    assert taken == len(SHARDS)
    assert str(os.getpid()) not in processes


def test_one_worker_needs_no_other_process() -> None:
    result = dict(check_all(slow_at_first, [(SHARDS[1], None)], workers=1))
    assert result[SHARDS[1]][0].location == str(os.getpid())


def test_a_killed_process_is_reported() -> None:
    with pytest.raises(UserError, match=r"a process of the check was killed.*fewer --workers"):
        list(check_all(dies, [(shard, None) for shard in SHARDS], workers=2))
