"""Each kind of damage is reported with its location, and nothing else is."""

import re
import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.verify.damage import Copy, expect, findings_in


def test_a_shard_too_many(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(clips.shard(0), clips.shard(7))
    shutil.copy(clips.shard(0, "idx"), clips.shard(7, "idx"))
    (clips.folder / "notes.txt").touch()
    message = r"does not belong to this dataset: dataset\.json does not list it; remove it"
    expect(findings_in(clips.folder, capsys), rf"shard-000007\.idx: {message}", rf"shard-000007\.tar: {message}")


def test_leftovers_of_a_job(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    (clips.folder / ".parts").mkdir()
    (clips.folder / ".parts" / "lock").touch()
    (clips.folder / ".tmp-shard-000001.tar-0123").touch()
    expect(
        findings_in(clips.folder, capsys),
        r"\.tmp-shard-000001\.tar-0123: is incomplete, left by a job that was killed; remove it",
        r"\.parts: was left by an unfinished job; remove it",
    )


def test_swapped_index_rows(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [row["key"] for row in images.rows(1)]
    images.edit_rows(1, lambda rows: rows.insert(1, rows.pop(2)))
    expect(
        findings_in(images.folder, capsys),
        rf"index\.parquet: {keys[1]}: is not in the order of the seed, or is a duplicate",
        rf"index\.parquet: {keys[2]} in shard-000001\.tar: index\.parquet has it where the tar has {keys[1]}: .*",
    )


def test_a_lost_index_row(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key = images.rows(0)[1]["key"]
    images.edit_rows(0, lambda rows: rows.pop(1))
    expect(
        findings_in(images.folder, capsys),
        rf"index\.parquet: {key} in shard-000000\.tar: index\.parquet has no row for it",
        r"dataset\.json: samples: is 12; index\.parquet has 11",
        r"dataset\.json: frames: is 12; index\.parquet has 11",
        r"dataset\.json: inputs: is 12; there are 11 in the shards and 0 rejects",
    )


def test_a_doubled_index_row(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key = images.rows(0)[1]["key"]
    images.edit_rows(0, lambda rows: rows.insert(1, rows[1]))
    expect(
        findings_in(images.folder, capsys),
        rf"index\.parquet: {key}: is not in the order of the seed, or is a duplicate",
        rf"index\.parquet: {key}: two rows among those of shard-000000\.tar have this key",
        r"dataset\.json: samples: is 12; index\.parquet has 13",
        r"dataset\.json: frames: is 12; index\.parquet has 13",
    )


def test_an_index_without_the_rows_of_a_shard(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    images.edit_rows(1, lambda rows: rows.clear())
    expect(findings_in(images.folder, capsys), r"index\.parquet: has no readable rows of shard-000001\.tar")


@pytest.mark.parametrize("file", ["index.parquet", "rejects.parquet"])
def test_tables_that_cannot_be_read(file: str, clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    name = re.escape(file)
    path = clips.folder / file
    other = pa.table({"key": ["a"]})
    pq.write_table(other, path)
    expect(findings_in(clips.folder, capsys), rf"{name}: has the columns key string")
    path.write_bytes(b"no table")
    expect(findings_in(clips.folder, capsys), rf"{name}: cannot be read: .*")
    path.unlink()
    expect(findings_in(clips.folder, capsys), rf"{name}: is missing")


def test_rejects_that_are_not_those_of_the_job(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.edit_rejects(lambda rows: rows[0].update(reason="bored"))
    expect(findings_in(clips.folder, capsys), r"rejects\.parquet: 1 rows have the unknown reason 'bored'")


def test_faults_that_only_the_hash_of_a_table_reveals(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.edit_rejects(lambda rows: rows[0].update(detail="none"))
    expect(findings_in(clips.folder, capsys), r"rejects\.parquet: has another sha256 than dataset\.json says")


def test_a_lost_reject(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.edit_rejects(lambda rows: rows.pop())
    expect(findings_in(clips.folder, capsys), r"rejects\.parquet: has 1 rows; dataset\.json says 2")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"samples": 7},
            [r"samples: is 7; its shards have 6", r"samples: is 7; index\.parquet has 6"],
        ),
        ({"frames": 1}, [r"frames: is 1; index\.parquet has \d+"]),
        ({"inputs": 9}, [r"inputs: is 9; there are 6 in the shards and 2 rejects"]),
        (
            {"name": "k400"},
            [r"shard-00000\d\.tar: is not the name of a shard; allowed are k400-000000\.tar, \.\.\."] * 3,
        ),
        (
            {"format_version": 9},
            [r"has format version 9; this program reads 1: write the shards again with `make shards`"],
        ),
        ({"settings": {"frames": {"fbs": 2}}}, [r"settings: the group frames is missing or damaged"]),
        ({"layout": "triplets"}, [r"settings: the group triplets is missing or damaged"]),
        ({"samples": "many"}, [r"is damaged \(ValidationError\); .*"]),
    ],
)
def test_an_edited_manifest(
    change: dict[str, Any], expected: list[str], clips: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    clips.edit_manifest(lambda fields: fields.update(change))
    shards = len(list(clips.folder.glob("*.tar")))
    expect(findings_in(clips.folder, capsys), *(rf"dataset\.json: {line}" for line in expected[:shards]))


def test_an_edited_count_of_a_shard(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    samples = len(clips.rows(1))
    clips.edit_manifest(lambda fields: fields["shards"][1].update(samples=samples + 1) or fields.update(samples=7))
    expect(
        findings_in(clips.folder, capsys),
        rf"dataset\.json: shard-000001\.tar: has {samples} samples, not {samples + 1}",
        r"dataset\.json: samples: is 7; index\.parquet has 6",
    )


def test_a_shard_that_the_manifest_names_twice(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    images.edit_manifest(lambda fields: fields["shards"].append(fields["shards"][2]))
    expect(
        findings_in(images.folder, capsys),
        r"dataset\.json: samples: is 12; its shards have 16",
        r"dataset\.json: shards: are not sorted by name, or one is listed twice",
        r"index\.parquet: has no readable rows of shard-000002\.tar",
    )


def test_another_seed_shows_in_the_order(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    images.edit_manifest(lambda fields: fields.update(seed=1))
    first, count = findings_in(images.folder, capsys)
    assert "is not in the order of the seed" in first
    assert re.fullmatch(r"index\.parquet: \d rows are not in the order of the seed", count)
