"""Each kind of damage is reported with its location, and nothing else is."""

import json
from typing import Any

import pytest

from tests.media import exif_block, jpeg, picture, with_segments
from tests.pipeline.verify.damage import HASH, Copy, expect, findings_in


@pytest.mark.parametrize("trusted", [False, True])
def test_a_picture_that_does_not_decode(trusted: bool, clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key = clips.overwrite(1, 1, "03.jpg", lambda jpeg: jpeg[: len(jpeg) // 3].ljust(len(jpeg), b"\xff"))
    if trusted:
        clips.trust(1)
    hashed = [] if trusted else [rf"shard-000001\.tar: {HASH}"]
    expect(
        findings_in(clips.folder, capsys), *hashed, rf"shard-000001\.tar: {key}: 03\.jpg: the JPEG does not decode: .*"
    )


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (exif_block((0x0112, 1, 1, 6)), "some readers turn it because of its metadata, though not ours; .*"),
        (b"\xff\xfe\0\x04hi\0\0", "DALI and other decoders fail at stray bytes in its header; .*"),
    ],
)
def test_a_header_that_decoders_read_differently(
    header: bytes, expected: str, images: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    """Older shards contain such photos unchanged."""
    odd = with_segments(jpeg(picture(120, 160, seed=0), quality=50), header)
    key = images.overwrite(1, 1, "jpg", lambda old: odd.ljust(len(old), b"\0"))
    images.trust(1)
    expect(findings_in(images.folder, capsys), rf"shard-000001\.tar: {key}: jpg: {expected}")


@pytest.mark.parametrize(
    ("change", "expected"),
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
    change: dict[str, Any], expected: list[str], clips: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    group = next(number for number in range(3) if any(row["label"] == 0 for row in clips.rows(number)))
    position = next(number for number, row in enumerate(clips.rows(group)) if row["label"] == 0)
    key = clips.rows(group)[position]["key"]
    clips.edit_rows(group, lambda rows: rows[position].update(change))
    where = rf"index\.parquet: {key} in shard-{group:06d}\.tar: "
    expect(findings_in(clips.folder, capsys), *(where + line for line in expected))


def test_a_wrong_size_in_the_index(images: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    row = images.rows(2)[1]
    images.edit_rows(2, lambda rows: rows[1].update(width=161))
    where = rf"index\.parquet: {row['key']} in shard-000002\.tar: index\.parquet "
    expect(
        findings_in(images.folder, capsys),
        rf"{where}says 161 x 120 pixels; jpg has 160 x 120",
        rf"{where}has width 161; json says 160",
    )


def test_a_wrong_span_in_the_index(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    row = clips.rows(1)[1]
    clips.edit_rows(1, lambda rows: rows[1]["frame_offset"].__setitem__(4, 512))
    expect(
        findings_in(clips.folder, capsys),
        rf"index\.parquet: {row['key']} in shard-000001\.tar: index\.parquet has 04\.jpg at byte 512 with .*; "
        rf"it is at byte {row['frame_offset'][4]} with {row['frame_size'][4]} bytes",
    )


def test_a_triplet_of_frames_out_of_order(triplets: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    def reverse(data: bytes) -> bytes:
        facts = json.loads(data)
        facts["frames"] = facts["frames"][::-1]
        return json.dumps(facts, sort_keys=True).encode()

    key = triplets.overwrite(0, 1, "json", reverse)
    assert key.endswith("-01")
    triplets.trust(0)
    expect(
        findings_in(triplets.folder, capsys), rf"shard-000000\.tar: {key}: json has the frames \[\d+, \d+, \d+\] at .*"
    )


def test_malformed_json(triplets: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    key = triplets.overwrite(0, 0, "json", lambda data: b"[" * len(data))
    triplets.trust(0)
    expect(findings_in(triplets.folder, capsys), rf"shard-000000\.tar: {key}: json is not what the job writes \(.*\)")
