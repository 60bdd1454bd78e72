"""What the program says of rejects; the jobs themselves are tested in test_job.py."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import INDEX, REJECTS, REJECTS_SCHEMA, read_manifest
from pipeline.settings import UserError
from pipeline.shards.__main__ import _advice, _lost
from pipeline.shards.command import ShardsCommand
from pipeline.shards.job import Outcome


def command(out: Path, **options: Any) -> ShardsCommand:
    return ShardsCommand(data="data", out=str(out), **options)


def test_spare_files_of_an_annotated_clip_are_not_lost(clip_dataset: Path, tmp_path: Path) -> None:
    manifest = read_manifest(clip_dataset)
    names = ["-abcdefghij_000001_000007", "bcdefghijkl_000001_000006", "bcdefghijkl_000001_000006"]
    spare = [{"source": f"spare/{name}.mkv", "reason": "duplicate_key", "detail": ""} for name in names]
    rejects = pq.read_table(clip_dataset / REJECTS).to_pylist() + spare
    pq.write_table(pa.Table.from_pylist(rejects, REJECTS_SCHEMA), tmp_path / REJECTS)
    shutil.copy(clip_dataset / INDEX, tmp_path / INDEX)
    counted = manifest.model_copy(update={"rejects": 5, "inputs": 11})
    outcome = Outcome(counted, {}, {})
    assert _lost(command(tmp_path, annotations="k.csv"), outcome) == (2, 8)
    assert _lost(command(tmp_path), outcome) == (5, 11)
    (tmp_path / INDEX).write_bytes(b"torn")
    with pytest.raises(UserError, match=r"index\.parquet cannot be read"):
        _lost(command(tmp_path, annotations="k.csv"), outcome)


@pytest.mark.parametrize(
    ("reasons", "options", "said"),
    [
        ({"duplicate_key": 9, "unreadable": 1}, {}, "Take them with --media frames"),
        ({"duplicate_key": 9}, {"media": "frames"}, "give the folder of each clip a name of its own"),
        ({"mixed_names": 9, "too_short": 8}, {"media": "frames"}, "with --frames.pattern, in a new OUT"),
        ({"duplicate_key": 9}, {"annotations": "k.csv"}, "raise --max_reject_fraction"),
        ({"too_short": 9}, {}, "raise --max_reject_fraction"),
    ],
)
def test_advice_is_of_what_most_rejects_are(
    clip_dataset: Path, reasons: dict[str, int], options: dict[str, Any], said: str
) -> None:
    assert said in _advice(command(clip_dataset, **options), Outcome(read_manifest(clip_dataset), reasons, {}))
