"""Check one shard against the manifest, the index and its DALI index file."""

from collections import Counter
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from pipeline.dataset import INDEX, MANIFEST, Manifest, Shard
from pipeline.files import sha256_file
from pipeline.record import Member, dali_index, dali_index_file
from pipeline.storage import Storage
from pipeline.verify.finding import Finding, Report
from pipeline.verify.sample import Row, index_faults, read_contents
from pipeline.verify.tar import TarSample, read_tar

MOST_OF_A_SHARD = 10
"""Number of findings of one shard that are reported; further ones are counted."""


def check_shard(storage: Storage, manifest: Manifest, shard: Shard, rows: pa.Table | None) -> list[Finding]:
    """Findings of one shard; `rows` are its rows of the index, None if the index cannot be read.

    A shard in an object store is downloaded to a temporary file.
    """
    findings: list[Finding] = []
    try:
        if (size := storage.size(shard.file)) is None:
            return [Finding(shard.file, "", "is missing")]
        with storage.local(shard.file) as path, Path(path).open("rb") as stream:
            intact = _check_hash(path, size, shard, findings.append)
            samples = read_tar(stream, size, shard.file, findings.append)
            if intact:
                _check_dali_index(storage, shard.file, samples, findings.append)
            _check_samples(stream, shard, samples, rows, manifest, intact, findings.append)
    except (OSError, EOFError) as error:
        findings.append(Finding(shard.file, "", f"cannot be read: {getattr(error, 'strerror', None) or error}"))
    if len(findings) > MOST_OF_A_SHARD:
        others = len(findings) - MOST_OF_A_SHARD
        findings[MOST_OF_A_SHARD:] = [Finding(shard.file, "", f"{others} more that are not listed")]
    return findings


def _check_hash(path: Path, size: int, shard: Shard, report: Report) -> bool:
    """Whether size and hash are those in the manifest."""
    if size != shard.bytes:
        report(Finding(shard.file, "", f"has {size} bytes; {MANIFEST} says {shard.bytes}"))
        return False
    if (result := sha256_file(path)) != shard.sha256:
        report(Finding(shard.file, "", f"has the sha256 {result}; {MANIFEST} says {shard.sha256}"))
        return False
    return True


def _check_dali_index(storage: Storage, tar: str, samples: list[TarSample], report: Report) -> None:
    file = dali_index_file(tar)
    if storage.size(file) is None:
        report(Finding(file, "", "is missing"))
        return
    result = storage.read(file).decode(errors="replace").split("\n")
    expected = dali_index(samples).split("\n")
    if result != expected:
        pairs = zip(result, expected, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(result), len(expected)))
        key = samples[first - 1].key if 0 < first <= len(samples) else ""
        report(Finding(file, key, f"line {first + 1} does not match {tar}"))


def _check_samples(
    stream: BinaryIO,
    shard: Shard,
    samples: list[TarSample],
    rows: pa.Table | None,
    manifest: Manifest,
    intact: bool,
    report: Report,
) -> None:
    """Check every sample; the index is blamed for contradictions to a tar with the right hash, else the tar."""

    def in_tar(key: str, fault: str) -> None:
        report(Finding(shard.file, key, fault))

    def in_index(key: str, fault: str) -> None:
        report(Finding(INDEX, f"{key} in {shard.file}", fault) if intact else Finding(shard.file, key, fault))

    def read(member: Member) -> bytes:
        stream.seek(member.offset)
        return stream.read(member.size)

    if intact and len(samples) != shard.samples:
        report(Finding(MANIFEST, shard.file, f"has {len(samples)} samples, not {shard.samples}"))
    in_row = _rows_by_key(rows, shard.file, report) if rows is not None else {}
    counts = Counter(sample.key for sample in samples)
    for key in [key for key, count in counts.items() if count > 1]:
        in_tar(key, "its members are not adjacent")
    for key in [key for key in in_row if key not in counts]:
        in_index(key, f"{INDEX} has a row for it; it is not in the tar")
    if in_row and list(in_row) != list(counts) and set(in_row) == set(counts):
        row_key, key = next((a, b) for a, b in zip(in_row, counts, strict=True) if a != b)
        in_index(row_key, f"{INDEX} has it where the tar has {key}: the rows are in another order")
    for sample in samples:
        contents = read_contents(sample.members, read, manifest)
        for fault in contents.faults:
            in_tar(sample.key, fault)
        if (row := in_row.get(sample.key)) is not None:
            for fault in index_faults(row, sample.members, contents, manifest):
                in_index(sample.key, fault)
        elif rows is not None:
            in_index(sample.key, f"{INDEX} has no row for it")


def _rows_by_key(rows: pa.Table, file: str, report: Report) -> dict[str, Row]:
    by_key: dict[str, Row] = {}
    for row in rows.to_pylist():
        if row["shard"] != file:
            report(Finding(INDEX, row["key"], f"its row is among those of {file}, but has the shard {row['shard']}"))
        if row["key"] in by_key:
            report(Finding(INDEX, row["key"], f"two rows among those of {file} have this key"))
        by_key[row["key"]] = row
    return by_key
