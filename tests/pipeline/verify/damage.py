"""Copies of datasets that are damaged on purpose, and the findings in them."""

import hashlib
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import INDEX_SCHEMA, REJECTS_SCHEMA
from pipeline.verify.__main__ import VerifyCommand, main

Rows = list[dict[str, Any]]
HASH = r"has the sha256 [0-9a-f]{64}; dataset\.json says [0-9a-f]{64}"


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
        """Put the current size and hash of a shard into the manifest."""
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


def findings_in(folder: Path | str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Findings in a dataset, one line each; also checks that advice follows."""
    capsys.readouterr()
    status = main(VerifyCommand(dataset=str(folder), workers=1))
    lines = capsys.readouterr().out.splitlines()
    if status == 0:
        assert len(lines) == 1
        assert "is intact" in lines[0]
        return []
    assert status == 1
    *result, verdict, advice = lines
    assert verdict.startswith(f"{len(result)} findings")
    assert advice.startswith("what to do: ")
    return result


def expect(findings: list[str], *patterns: str) -> None:
    assert len(findings) == len(patterns), findings
    for line, pattern in zip(findings, patterns, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"
