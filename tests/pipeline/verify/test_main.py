"""Each kind of damage, one at a time, is named with its place, and nothing else is."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import INDEX_SCHEMA, REJECTS_SCHEMA
from pipeline.settings import UserError
from pipeline.storage import open_storage
from pipeline.verify.__main__ import MOST_LINES, VerifyCommand, main

Rows = list[dict[str, Any]]


class Copy:
    """A copy of a dataset that can be damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = folder / "index.parquet"
        self.rejects = folder / "rejects.parquet"

    def shard(self, number: int, extension: str = "tar") -> Path:
        return self.folder / f"shard-{number:06d}.{extension}"

    def rows(self, number: int) -> Rows:
        """Index rows of a shard."""
        rows: Rows = pq.ParquetFile(self.index).read_row_group(number).to_pylist()
        return rows

    def edit_rows(self, number: int, edit: Callable[[Rows], Any]) -> None:
        groups = [self.rows(group) for group in range(pq.ParquetFile(self.index).num_row_groups)]
        edit(groups[number])
        with pq.ParquetWriter(self.index, INDEX_SCHEMA) as writer:
            for group in groups:
                writer.write_table(pa.Table.from_pylist(group, INDEX_SCHEMA))

    def edit_rejects(self, edit: Callable[[Rows], Any]) -> None:
        rows = pq.read_table(self.rejects).to_pylist()
        edit(rows)
        pq.write_table(pa.Table.from_pylist(rows, REJECTS_SCHEMA), self.rejects)

    def edit_manifest(self, edit: Callable[[dict[str, Any]], Any]) -> None:
        path = self.folder / "dataset.json"
        fields = json.loads(path.read_text())
        edit(fields)
        path.write_text(json.dumps(fields))

    def edit_tar(self, number: int, edit: Callable[[bytearray], Any]) -> None:
        data = bytearray(self.shard(number).read_bytes())
        edit(data)
        self.shard(number).write_bytes(data)

    def trust(self, number: int) -> None:
        """Make the manifest tell the size and hash that a shard has now."""
        data = self.shard(number).read_bytes()
        facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.edit_manifest(lambda fields: fields["shards"][number].update(facts))

    def member(self, number: int, sample: int, extension: str) -> tuple[str, int, int]:
        """Key, first byte and size of a member."""
        key = self.rows(number)[sample]["key"]
        with tarfile.open(self.shard(number)) as tar:
            info = tar.getmember(f"{key}.{extension}")
            return key, info.offset_data, info.size

    def overwrite(self, number: int, sample: int, extension: str, change: Callable[[bytes], bytes]) -> str:
        """Change the content of a member to another of the same size; returns the key of its sample."""
        key, offset, size = self.member(number, sample, extension)

        def put(data: bytearray) -> None:
            changed = change(bytes(data[offset : offset + size]))
            assert len(changed) == size
            data[offset : offset + size] = changed

        self.edit_tar(number, put)
        return key


def found_in(folder: Path | str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines about what is wrong; the advice that follows them is checked here."""
    capsys.readouterr()
    status = main(VerifyCommand(dataset=str(folder), workers=1))
    lines = capsys.readouterr().out.splitlines()
    if status == 0:
        assert len(lines) == 1
        assert "is whole" in lines[0]
        return []
    assert status == 1
    *found, verdict, advice = lines
    assert verdict.startswith(f"{len(found)} findings")
    assert advice.startswith("what to do: ")
    return found


def expect(found: list[str], *patterns: str) -> None:
    assert len(found) == len(patterns), found
    for line, pattern in zip(found, patterns, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"


@pytest.fixture
def clips(clip_dataset: Path, tmp_path: Path) -> Copy:
    return Copy(Path(shutil.copytree(clip_dataset, tmp_path / "copy")))


@pytest.fixture
def images(image_dataset: Path, tmp_path: Path) -> Copy:
    return Copy(Path(shutil.copytree(image_dataset, tmp_path / "copy")))


@pytest.fixture
def triplets(triplet_dataset: Path, tmp_path: Path) -> Copy:
    return Copy(Path(shutil.copytree(triplet_dataset, tmp_path / "copy")))


@pytest.mark.parametrize("dataset", ["clip_dataset", "image_dataset", "triplet_dataset"])
def test_whole_datasets_are_whole(
    dataset: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found_in(request.getfixturevalue(dataset), capsys) == []


HASH = r"has the sha256 [0-9a-f]{64}; dataset\.json says [0-9a-f]{64}"


def test_one_flipped_bit_in_a_picture(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    row = clips.rows(1)[0]

    def flip(data: bytearray) -> None:
        data[row["frame_offset"][2] + row["frame_size"][2] // 2] ^= 4

    clips.edit_tar(1, flip)
    expect(found_in(clips.folder, capsys), rf"shard-000001\.tar: {HASH}")


@pytest.mark.parametrize("trusted", [False, True])
def test_a_picture_that_does_not_decode(trusted: bool, clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key = clips.overwrite(1, 1, "03.jpg", lambda jpeg: jpeg[: len(jpeg) // 3].ljust(len(jpeg), b"\xff"))
    if trusted:
        clips.trust(1)
    hashed = [] if trusted else [rf"shard-000001\.tar: {HASH}"]
    expect(found_in(clips.folder, capsys), *hashed, rf"shard-000001\.tar: {key}: 03\.jpg: the JPEG does not decode: .*")


def test_a_tar_that_is_cut_off(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key, offset, _ = images.member(0, 2, "jpg")
    lost = images.rows(0)[3]["key"]
    images.edit_tar(0, lambda data: data.__delitem__(slice(offset + 100, None)))
    found = found_in(images.folder, capsys)
    expect(
        found,
        rf"shard-000000\.tar: has {offset + 100} bytes; dataset\.json says \d+",
        rf"shard-000000\.tar: {key}: the tar cannot be read from here on: unexpected end of data",
        rf"shard-000000\.tar: {lost}: index\.parquet has a row for it; the tar does not hold it",
        rf"shard-000000\.tar: {key}: jpg: the JPEG does not decode: .*",
        rf"shard-000000\.tar: {key}: index\.parquet expects the members jpg, cls, json; the tar has jpg",
    )


def test_a_damaged_tar_header(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    _, offset, _ = images.member(0, 3, "jpg")
    before, lost = (images.rows(0)[number]["key"] for number in (2, 3))
    images.edit_tar(0, lambda data: data.__setitem__(slice(offset - 400, offset - 390), b"\xee" * 10))
    expect(
        found_in(images.folder, capsys),
        rf"shard-000000\.tar: {HASH}",
        rf"shard-000000\.tar: after {before}: neither a tar member nor the end of the tar at byte {offset - 512} of .*",
        rf"shard-000000\.tar: {lost}: index\.parquet has a row for it; the tar does not hold it",
    )


def test_a_time_in_a_tar_header(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key, offset, size = images.member(2, 3, "cls")
    info = tarfile.TarInfo(f"{key}.cls")
    info.size, info.mtime = size, 1700000000
    images.edit_tar(2, lambda data: data.__setitem__(slice(offset - 512, offset), info.tobuf(tarfile.GNU_FORMAT)))
    images.trust(2)
    said = rf"{key}\.cls has another header than the job writes \(mtime 1700000000 instead of 0\)"
    expect(found_in(images.folder, capsys), rf"shard-000002\.tar: {key}: {said}")


def test_swapped_members(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    """The picture of a sample behind its label."""
    key, offset, size = images.member(1, 0, "jpg")
    first, end = offset - 512, offset + -(-size // 512) * 512

    def swap(data: bytearray) -> None:
        data[first : end + 1024] = data[end : end + 1024] + data[first:end]

    images.edit_tar(1, swap)
    images.trust(1)
    expect(
        found_in(images.folder, capsys),
        rf"shard-000001\.idx: {key}: line 2 is not what shard-000001\.tar holds",
        rf"index\.parquet: {key} in shard-000001\.tar: index\.parquet expects the members jpg, cls, json; "
        r"the tar has cls, jpg, json",
        rf"index\.parquet: {key} in shard-000001\.tar: index\.parquet has jpg at byte {offset} .*",
    )


def test_a_missing_shard(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.shard(1).unlink()
    expect(found_in(clips.folder, capsys), r"shard-000001\.tar: is missing")


def test_a_shard_too_many(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(clips.shard(0), clips.shard(7))
    shutil.copy(clips.shard(0, "idx"), clips.shard(7, "idx"))
    (clips.folder / "notes.txt").touch()
    said = r"is no file of this dataset: dataset\.json does not name it; remove it"
    expect(found_in(clips.folder, capsys), rf"shard-000007\.idx: {said}", rf"shard-000007\.tar: {said}")


def test_what_a_job_left(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    (clips.folder / ".parts").mkdir()
    (clips.folder / ".parts" / "lock").touch()
    (clips.folder / ".tmp-shard-000001.tar-0123").touch()
    expect(
        found_in(clips.folder, capsys),
        r"\.tmp-shard-000001\.tar-0123: was left half-written by a job that was killed; remove it",
        r"\.parts: was left by a job that did not end; remove it",
    )


def test_a_missing_dali_index(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.shard(0, "idx").unlink()
    expect(found_in(clips.folder, capsys), r"shard-000000\.idx: is missing")


def test_a_changed_dali_index(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    path = images.shard(0, "idx")
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace("jpg ", "jpg 1", 1)
    path.write_text("".join(lines))
    key = images.rows(0)[1]["key"]
    expect(found_in(images.folder, capsys), rf"shard-000000\.idx: {key}: line 3 is not what shard-000000\.tar holds")


def test_swapped_index_rows(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [row["key"] for row in images.rows(1)]
    images.edit_rows(1, lambda rows: rows.insert(1, rows.pop(2)))
    expect(
        found_in(images.folder, capsys),
        rf"index\.parquet: {keys[1]}: does not stand in the order of the seed, or is there twice",
        rf"index\.parquet: {keys[2]} in shard-000001\.tar: index\.parquet has it where the tar has {keys[1]}: .*",
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"label": 1},
            [
                r"index.parquet has class_name 'riding'; dataset.json calls label 1 'waving hands'",
                r"index.parquet has label 1; cls says '0'",
                r"index.parquet has label 1; json says 0",
            ],
        ),
        (
            {"label": 9},
            [
                r"index.parquet has label 9; dataset.json has 2 classes",
                r"index.parquet has label 9; cls says '0'",
                r"index.parquet has label 9; json says 0",
            ],
        ),
        (
            {"class_name": "rowing"},
            [
                r"index.parquet has class_name 'rowing'; dataset.json calls label 0 'riding'",
                r"index.parquet has class_name 'rowing'; json says 'riding'",
            ],
        ),
        ({"source": "elsewhere"}, [r"index.parquet has source 'elsewhere'; json says 'riding/[^']*'"]),
        ({"duration_s": 60.0}, [r"index.parquet has duration_s 60; by its json the sample lasts \d.* s"]),
    ],
)
def test_a_wrong_value_in_the_index(
    change: dict[str, Any], said: list[str], clips: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    group = next(number for number in range(3) if any(row["label"] == 0 for row in clips.rows(number)))
    place = next(number for number, row in enumerate(clips.rows(group)) if row["label"] == 0)
    key = clips.rows(group)[place]["key"]
    clips.edit_rows(group, lambda rows: rows[place].update(change))
    where = rf"index\.parquet: {key} in shard-{group:06d}\.tar: "
    expect(found_in(clips.folder, capsys), *(where + line for line in said))


def test_a_wrong_size_in_the_index(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    row = images.rows(2)[1]
    images.edit_rows(2, lambda rows: rows[1].update(width=161))
    where = rf"index\.parquet: {row['key']} in shard-000002\.tar: index\.parquet "
    expect(
        found_in(images.folder, capsys),
        rf"{where}says 161 x 120 pixels; jpg has 160 x 120",
        rf"{where}has width 161; json says 160",
    )


def test_a_wrong_span_in_the_index(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    row = clips.rows(1)[1]
    clips.edit_rows(1, lambda rows: rows[1]["frame_offset"].__setitem__(4, 512))
    expect(
        found_in(clips.folder, capsys),
        rf"index\.parquet: {row['key']} in shard-000001\.tar: index\.parquet has 04\.jpg at byte 512 with .*; "
        rf"it is at byte {row['frame_offset'][4]} with {row['frame_size'][4]} bytes",
    )


def test_a_lost_index_row(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key = images.rows(0)[1]["key"]
    images.edit_rows(0, lambda rows: rows.pop(1))
    expect(
        found_in(images.folder, capsys),
        rf"index\.parquet: {key} in shard-000000\.tar: index\.parquet has no row for it",
        r"dataset\.json: samples: is 12; index\.parquet has 11",
        r"dataset\.json: frames: is 12; index\.parquet has 11",
        r"dataset\.json: inputs: is 12; there are 11 in the shards and 0 rejects",
    )


def test_a_doubled_index_row(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key = images.rows(0)[1]["key"]
    images.edit_rows(0, lambda rows: rows.insert(1, rows[1]))
    expect(
        found_in(images.folder, capsys),
        rf"index\.parquet: {key}: does not stand in the order of the seed, or is there twice",
        rf"index\.parquet: {key}: two rows among those of shard-000000\.tar have this key",
        r"dataset\.json: samples: is 12; index\.parquet has 13",
        r"dataset\.json: frames: is 12; index\.parquet has 13",
    )


def test_an_index_without_the_rows_of_a_shard(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    images.edit_rows(1, lambda rows: rows.clear())
    expect(found_in(images.folder, capsys), r"index\.parquet: has no readable rows of shard-000001\.tar")


@pytest.mark.parametrize("file", ["index.parquet", "rejects.parquet"])
def test_tables_that_cannot_be_read(file: str, clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    name = re.escape(file)
    path = clips.folder / file
    other = pa.table({"key": ["a"]})
    pq.write_table(other, path)
    expect(found_in(clips.folder, capsys), rf"{name}: has the columns key string")
    path.write_bytes(b"no table")
    expect(found_in(clips.folder, capsys), rf"{name}: cannot be read: .*")
    path.unlink()
    expect(found_in(clips.folder, capsys), rf"{name}: is missing")


def test_rejects_that_are_not_those_of_the_job(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.edit_rejects(lambda rows: rows[0].update(reason="bored"))
    expect(found_in(clips.folder, capsys), r"rejects\.parquet: 1 rows have the unknown reason 'bored'")


def test_what_only_the_hash_of_a_table_shows(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.edit_rejects(lambda rows: rows[0].update(detail="none"))
    expect(found_in(clips.folder, capsys), r"rejects\.parquet: has another sha256 than dataset\.json says")


def test_a_lost_reject(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.edit_rejects(lambda rows: rows.pop())
    expect(found_in(clips.folder, capsys), r"rejects\.parquet: has 1 rows; dataset\.json says 2")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"samples": 7},
            [r"samples: is 7; its shards have 6", r"samples: is 7; index\.parquet has 6"],
        ),
        ({"frames": 1}, [r"frames: is 1; index\.parquet has \d+"]),
        ({"inputs": 9}, [r"inputs: is 9; there are 6 in the shards and 2 rejects"]),
        (
            {"name": "k400"},
            [r"shard-00000\d\.tar: is no name of a shard; they are called k400-000000\.tar, \.\.\."] * 3,
        ),
        ({"format_version": 9}, [r"has format version 9; this program reads 1: write the shards again with `make shards`"]),
        ({"settings": {"frames": {"fbs": 2}}}, [r"settings: the group frames is missing or damaged"]),
        ({"layout": "triplets"}, [r"settings: the group triplets is missing or damaged"]),
        ({"samples": "many"}, [r"is damaged \(ValidationError\); .*"]),
    ],
)
def test_an_edited_manifest(
    change: dict[str, Any], said: list[str], clips: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    clips.edit_manifest(lambda fields: fields.update(change))
    shards = len(list(clips.folder.glob("*.tar")))
    expect(found_in(clips.folder, capsys), *(rf"dataset\.json: {line}" for line in said[:shards]))


def test_an_edited_count_of_a_shard(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    samples = len(clips.rows(1))
    clips.edit_manifest(lambda fields: fields["shards"][1].update(samples=samples + 1) or fields.update(samples=7))
    expect(
        found_in(clips.folder, capsys),
        rf"dataset\.json: shard-000001\.tar: has {samples} samples, not {samples + 1}",
        r"dataset\.json: samples: is 7; index\.parquet has 6",
    )


def test_another_seed_is_seen_in_the_order(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    images.edit_manifest(lambda fields: fields.update(seed=1))
    first, count = found_in(images.folder, capsys)
    assert "does not stand in the order of the seed" in first
    assert re.fullmatch(r"index\.parquet: \d rows do not stand in the order of the seed", count)


def test_a_triplet_of_frames_out_of_order(triplets: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    def reverse(data: bytes) -> bytes:
        facts = json.loads(data)
        facts["frames"] = facts["frames"][::-1]
        return json.dumps(facts, sort_keys=True).encode()

    key = triplets.overwrite(0, 1, "json", reverse)
    assert key.endswith("-01")
    triplets.trust(0)
    expect(found_in(triplets.folder, capsys), rf"shard-000000\.tar: {key}: json has the frames \[\d+, \d+, \d+\] at .*")


def test_json_that_is_none(triplets: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key = triplets.overwrite(0, 0, "json", lambda data: b"[" * len(data))
    triplets.trust(0)
    expect(found_in(triplets.folder, capsys), rf"shard-000000\.tar: {key}: json is not what the job writes \(.*\)")


def test_many_findings_are_counted(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is wrong, a shard does not drown the others."""
    data = images.shard(1).read_bytes()
    images.shard(1).write_bytes(b"\0" * len(data))
    for sample in range(4):
        images.overwrite(2, sample, "jpg", lambda jpeg: b"\0" * len(jpeg))
        images.overwrite(2, sample, "json", lambda data: b"\0" * len(data))
        images.overwrite(2, sample, "cls", lambda _: b"7")
    found = found_in(images.folder, capsys)
    of_shard = [line for line in found if line.startswith("shard-000002.tar")]
    assert len(of_shard) == 11
    assert re.fullmatch(r"shard-000002\.tar: \d+ more that are not listed", of_shard[-1])
    assert len(found) < MOST_LINES


def test_advice_names_the_files_to_restore(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.shard(1).unlink()
    clips.shard(0, "idx").unlink()
    main(VerifyCommand(dataset=str(clips.folder), workers=1))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("what to do: copy shard-000000.idx, shard-000001.tar again from an intact copy")
    assert "remove what there is of them and run the same `make shards` command again" in last
    clips.index.unlink()
    main(VerifyCommand(dataset=str(clips.folder), workers=1))
    assert f"remove {clips.folder} and run the same" in capsys.readouterr().out.splitlines()[-1]


def test_surplus_files_are_not_to_be_restored(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    (clips.folder / "shard-000009.tar").touch()
    capsys.readouterr()
    assert main(VerifyCommand(dataset=str(clips.folder), workers=1)) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "what to do: remove the files named above; nothing else is wrong"


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no dataset at"):
        main(VerifyCommand(dataset=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="holds no finished shard dataset"):
        main(VerifyCommand(dataset=str(tmp_path)))
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts" / "job.json").touch()
    with pytest.raises(UserError, match=r"unfinished job: run the same `make shards` command"):
        main(VerifyCommand(dataset=str(tmp_path)))


def test_several_processes_find_the_same_in_the_same_order(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        clips.overwrite(number, 0, "00.jpg", lambda jpeg: b"\0" * len(jpeg))
    alone = found_in(clips.folder, capsys)
    command = [sys.executable, "-m", "pipeline.verify", str(clips.folder), "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[:-2] == alone


def test_unreadable_shards_are_named(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.shard(0).unlink()
    clips.shard(0).symlink_to("shard-000001.tar")
    expect_first = found_in(clips.folder, capsys)[0]
    assert expect_first.startswith("shard-000000.tar: has ")
    if os.geteuid() != 0:
        clips.shard(1).chmod(0)
        assert "shard-000001.tar: cannot be read: Permission denied" in found_in(clips.folder, capsys)


def test_an_object_store(images: Copy, bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    storage = open_storage(f"{bucket}/verified")
    for path in images.folder.iterdir():
        storage.write(path.name, path.read_bytes())
    assert found_in(f"{bucket}/verified", capsys) == []
    storage.remove("shard-000001.idx")
    expect(found_in(f"{bucket}/verified", capsys), r"shard-000001\.idx: is missing")
