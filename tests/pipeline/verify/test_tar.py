"""Each kind of damage is reported with its location, and nothing else is."""

import tarfile

import pytest

from tests.pipeline.verify.damage import HASH, Copy, expect, findings_in


def test_a_tar_that_is_cut_off(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key, offset, _ = images.member(0, 2, "jpg")
    lost = images.rows(0)[3]["key"]
    images.edit_tar(0, lambda data: data.__delitem__(slice(offset + 100, None)))
    result = findings_in(images.folder, capsys)
    expect(
        result,
        rf"shard-000000\.tar: has {offset + 100} bytes; dataset\.json says \d+",
        rf"shard-000000\.tar: {key}: the tar cannot be read from here on: unexpected end of data",
        rf"shard-000000\.tar: {lost}: index\.parquet has a row for it; it is not in the tar",
        rf"shard-000000\.tar: {key}: jpg: the JPEG does not decode: .*",
        rf"shard-000000\.tar: {key}: index\.parquet expects the members jpg, cls, json; the tar has jpg",
    )


def test_a_damaged_tar_header(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    _, offset, _ = images.member(0, 3, "jpg")
    before, lost = (images.rows(0)[number]["key"] for number in (2, 3))
    images.edit_tar(0, lambda data: data.__setitem__(slice(offset - 400, offset - 390), b"\xee" * 10))
    expect(
        findings_in(images.folder, capsys),
        rf"shard-000000\.tar: {HASH}",
        rf"shard-000000\.tar: after {before}: neither a tar member nor the end of the tar at byte {offset - 512} of .*",
        rf"shard-000000\.tar: {lost}: index\.parquet has a row for it; it is not in the tar",
    )


def test_a_time_in_a_tar_header(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key, offset, size = images.member(2, 3, "cls")
    info = tarfile.TarInfo(f"{key}.cls")
    info.size, info.mtime = size, 1700000000
    images.edit_tar(2, lambda data: data.__setitem__(slice(offset - 512, offset), info.tobuf(tarfile.GNU_FORMAT)))
    images.trust(2)
    message = rf"{key}\.cls has another header than the job writes \(mtime 1700000000 instead of 0\)"
    expect(findings_in(images.folder, capsys), rf"shard-000002\.tar: {key}: {message}")
