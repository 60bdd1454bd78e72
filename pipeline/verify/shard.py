"""One shard against the manifest, the index and its own DALI index file."""

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
"""So many findings of one shard are told; the others are counted."""


def check_shard(storage: Storage, manifest: Manifest, shard: Shard, rows: pa.Table | None) -> list[Finding]:
    """What is wrong with one shard; `rows` are its rows of the index, None if the index cannot be read.

    A shard in an object store is fetched to a temporary file.
    """
    findings: list[Finding] = []
    try:
        if (size := storage.size(shard.file)) is None:
            return [Finding(shard.file, "", "is missing")]
        with storage.local(shard.file) as path, Path(path).open("rb") as stream:
            whole = _check_whole(path, size, shard, findings.append)
            samples = read_tar(stream, size, shard.file, findings.append)
            if whole:
                _check_dali_index(storage, shard.file, samples, findings.append)
            _check_samples(stream, shard, samples, rows, manifest, whole, findings.append)
    except (OSError, EOFError) as error:
        findings.append(Finding(shard.file, "", f"cannot be read: {getattr(error, 'strerror', None) or error}"))
    if len(findings) > MOST_OF_A_SHARD:
        others = len(findings) - MOST_OF_A_SHARD
        findings[MOST_OF_A_SHARD:] = [Finding(shard.file, "", f"{others} more that are not listed")]
    return findings


def _check_whole(path: Path, size: int, shard: Shard, report: Report) -> bool:
    """Size and hash: whether the file is the one that the job wrote."""
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
        place = samples[first - 1].key if 0 < first <= len(samples) else ""
        report(Finding(file, place, f"line {first + 1} is not what {tar} holds"))


def _check_samples(
    stream: BinaryIO,
    shard: Shard,
    samples: list[TarSample],
    rows: pa.Table | None,
    manifest: Manifest,
    whole: bool,
    report: Report,
) -> None:
    """A tar with the right hash is right, so what differs from it is wrong."""

    def in_tar(key: str, what: str) -> None:
        report(Finding(shard.file, key, what))

    def in_index(key: str, what: str) -> None:
        report(Finding(INDEX, f"{key} in {shard.file}", what) if whole else Finding(shard.file, key, what))

    def read(member: Member) -> bytes:
        stream.seek(member.offset)
        return stream.read(member.size)

    if whole and len(samples) != shard.samples:
        report(Finding(MANIFEST, shard.file, f"has {len(samples)} samples, not {shard.samples}"))
    in_row = _rows_by_key(rows, shard.file, report) if rows is not None else {}
    counts = Counter(sample.key for sample in samples)
    for key in [key for key, count in counts.items() if count > 1]:
        in_tar(key, "its members do not lie together")
    for key in [key for key in in_row if key not in counts]:
        in_index(key, f"{INDEX} has a row for it; the tar does not hold it")
    if in_row and list(in_row) != list(counts) and set(in_row) == set(counts):
        row_key, key = next((a, b) for a, b in zip(in_row, counts, strict=True) if a != b)
        in_index(row_key, f"{INDEX} has it where the tar has {key}: the order of the rows is another")
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
            report(
                Finding(INDEX, row["key"], f"its row stands among those of {file}, but has the shard {row['shard']}")
            )
        if row["key"] in by_key:
            report(Finding(INDEX, row["key"], f"two rows among those of {file} have this key"))
        by_key[row["key"]] = row
    return by_key
