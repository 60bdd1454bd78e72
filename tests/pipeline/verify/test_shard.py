"""Each kind of damage is reported with its location, and nothing else is."""

import os
import re

import pytest

from pipeline.verify.__main__ import MOST_LINES
from tests.pipeline.verify.damage import HASH, Copy, expect, findings_in


def test_one_flipped_bit_in_a_picture(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    row = clips.rows(1)[0]

    def flip(data: bytearray) -> None:
        data[row["frame_offset"][2] + row["frame_size"][2] // 2] ^= 4

    clips.edit_tar(1, flip)
    expect(findings_in(clips.folder, capsys), rf"shard-000001\.tar: {HASH}")


def test_swapped_members(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    """Move the picture of a sample after its label."""
    key, offset, size = images.member(1, 0, "jpg")
    first, end = offset - 512, offset + -(-size // 512) * 512

    def swap(data: bytearray) -> None:
        data[first : end + 1024] = data[end : end + 1024] + data[first:end]

    images.edit_tar(1, swap)
    images.trust(1)
    expect(
        findings_in(images.folder, capsys),
        rf"shard-000001\.idx: {key}: line 2 does not match shard-000001\.tar",
        rf"index\.parquet: {key} in shard-000001\.tar: index\.parquet expects the members jpg, cls, json; "
        r"the tar has cls, jpg, json",
        rf"index\.parquet: {key} in shard-000001\.tar: index\.parquet has jpg at byte {offset} .*",
    )


def test_a_missing_shard(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.shard(1).unlink()
    expect(findings_in(clips.folder, capsys), r"shard-000001\.tar: is missing")


def test_a_missing_dali_index(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.shard(0, "idx").unlink()
    expect(findings_in(clips.folder, capsys), r"shard-000000\.idx: is missing")


def test_a_changed_dali_index(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    path = images.shard(0, "idx")
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace("jpg ", "jpg 1", 1)
    path.write_text("".join(lines))
    key = images.rows(0)[1]["key"]
    expect(findings_in(images.folder, capsys), rf"shard-000000\.idx: {key}: line 3 does not match shard-000000\.tar")


def test_a_row_that_names_another_shard(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key = images.rows(1)[2]["key"]
    images.edit_rows(1, lambda rows: rows[2].update(shard="shard-000000.tar"))
    message = r"its row is among those of shard-000001\.tar, but has the shard shard-000000\.tar"
    expect(findings_in(images.folder, capsys), rf"index\.parquet: {key}: {message}")


def test_many_findings_are_counted(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    """The findings of one shard do not hide those of others."""
    data = images.shard(1).read_bytes()
    images.shard(1).write_bytes(b"\0" * len(data))
    for sample in range(4):
        images.overwrite(2, sample, "jpg", lambda jpeg: b"\0" * len(jpeg))
        images.overwrite(2, sample, "json", lambda data: b"\0" * len(data))
        images.overwrite(2, sample, "cls", lambda _: b"7")
    result = findings_in(images.folder, capsys)
    of_shard = [line for line in result if line.startswith("shard-000002.tar")]
    assert len(of_shard) == 11
    assert re.fullmatch(r"shard-000002\.tar: \d+ more that are not listed", of_shard[-1])
    assert len(result) < MOST_LINES


def test_unreadable_shards_are_named(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.shard(0).unlink()
    clips.shard(0).symlink_to("shard-000001.tar")
    expect_first = findings_in(clips.folder, capsys)[0]
    assert expect_first.startswith("shard-000000.tar: has ")
    if os.geteuid() != 0:
        clips.shard(1).chmod(0)
        assert "shard-000001.tar: cannot be read: Permission denied" in findings_in(clips.folder, capsys)
