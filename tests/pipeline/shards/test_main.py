"""Messages of the program about rejects; jobs are tested in test_job.py."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import INDEX, REJECTS, REJECTS_SCHEMA, read_manifest
from pipeline.settings import UserError
from pipeline.shards.__main__ import _advice, _rejected
from pipeline.shards.command import ShardsCommand
from pipeline.shards.job import Outcome
from pipeline.storage import open_storage


def command(out: Path, **options: Any) -> ShardsCommand:
    return ShardsCommand(data="data", out=str(out), **options)


def test_spare_files_of_an_annotated_clip_do_not_count_as_rejects(clip_dataset: Path, tmp_path: Path) -> None:
    manifest = read_manifest(clip_dataset)
    names = ["-abcdefghij_000001_000007", "bcdefghijkl_000001_000006", "bcdefghijkl_000001_000006"]
    spare = [{"source": f"spare/{name}.mkv", "reason": "duplicate_key", "detail": ""} for name in names]
    rejects = pq.read_table(clip_dataset / REJECTS).to_pylist() + spare
    pq.write_table(pa.Table.from_pylist(rejects, REJECTS_SCHEMA), tmp_path / REJECTS)
    shutil.copy(clip_dataset / INDEX, tmp_path / INDEX)
    counted = manifest.model_copy(update={"rejects": 5, "inputs": 11})
    outcome = Outcome(open_storage(str(tmp_path)), counted, {}, {})
    assert _rejected(command(tmp_path, annotations="k.csv"), outcome) == (2, 8)
    assert _rejected(command(tmp_path), outcome) == (5, 11)
    (tmp_path / INDEX).write_bytes(b"torn")
    with pytest.raises(UserError, match=r"the tables of .* cannot be read"):
        _rejected(command(tmp_path, annotations="k.csv"), outcome)


@pytest.mark.parametrize(
    ("reasons", "options", "expected"),
    [
        (
            {"duplicate_key": 9, "unreadable": 1},
            {},
            "and a new OUT; if they are frames of clips, --media frames",
        ),
        ({"duplicate_key": 9}, {"media": "frames"}, "If they are no copies, give --keys path and a new OUT"),
        ({"mixed_names": 9, "too_short": 8}, {"media": "frames"}, "with --frames.pattern, in a new OUT"),
        ({"duplicate_key": 9}, {"annotations": "k.csv"}, "raise --max_reject_fraction"),
        ({"too_short": 9}, {}, "raise --max_reject_fraction"),
    ],
)
def test_advice_depends_on_the_most_frequent_reason(
    clip_dataset: Path, reasons: dict[str, int], options: dict[str, Any], expected: str
) -> None:
    assert expected in _advice(
        command(clip_dataset, **options), Outcome(open_storage("out"), read_manifest(clip_dataset), reasons, {})
    )
