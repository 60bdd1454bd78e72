"""`python -m pipeline.verify DATASET`."""

import functools
import os
import time
from typing import ClassVar

from pydantic import Field
from pydantic_settings import CliPositionalArg
from tqdm import tqdm

from pipeline.dataset import INDEX, JOB, MANIFEST, PARTS, REJECTS, Manifest, parse_manifest
from pipeline.settings import THREAD_LIMIT, Command, UserError, run_command
from pipeline.storage import Storage, Uri, open_storage
from pipeline.verify.finding import Finding
from pipeline.verify.pool import check_all
from pipeline.verify.shard import check_shard
from pipeline.verify.whole import IndexReader, check_files, check_manifest, check_rejects, check_settings, check_tables

MOST_LINES = 200
"""Number of findings that are printed; further ones are counted."""


class VerifyCommand(Command):
    """Check a finished dataset: hashes, the index against the tars, every picture by decoding it, all counts.

    Prints one line for each fault, beginning with the file to repair. Exit status: 0 if the dataset is intact, 1 if it
    has faults, 2 if there is no dataset.
    """

    program: ClassVar[str] = "python -m pipeline.verify"

    dataset: CliPositionalArg[Uri]
    """Folder of the dataset, or its URI such as s3://bucket/folder."""
    workers: int | None = Field(None, ge=1, le=THREAD_LIMIT)
    """Parallel processes, each with one shard; default: all cores."""


class _Report:
    """Prints findings, counts them and collects the damaged files in order."""

    def __init__(self) -> None:
        self.count = 0
        self.damaged: dict[str, None] = {}

    def __call__(self, finding: Finding) -> None:
        self.count += 1
        if not finding.extraneous:
            self.damaged[finding.file] = None
        if self.count <= MOST_LINES:
            tqdm.write(str(finding).replace("\n", " "))


def _manifest(storage: Storage, report: _Report) -> Manifest | None:
    if storage.is_missing():
        raise UserError(f"there is no dataset at {storage}: give the folder that holds {MANIFEST}")
    if storage.size(MANIFEST) is None:
        if storage.files(PARTS):
            raise UserError(f"{storage} holds an unfinished job: finish it with the same `make shards` command first")
        raise UserError(f"{storage} holds no finished shard dataset (no {MANIFEST}); make one with `make shards`")
    try:
        manifest = parse_manifest(storage.read(MANIFEST), MANIFEST)
    except UserError as error:
        report(Finding(MANIFEST, "", str(error).removeprefix(f"{MANIFEST} ")))
        return None
    return manifest if check_settings(manifest, report) else None


def _check(storage: Storage, manifest: Manifest, workers: int, report: _Report) -> None:
    check_manifest(manifest, report)
    check_files(storage, manifest, report)
    check_rejects(storage, manifest, report)
    check = functools.partial(check_shard, storage, manifest.model_copy(update={"shards": []}))
    shards = IndexReader(storage, manifest, report).shards()
    total = sum(shard.bytes for shard in manifest.shards)
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", smoothing=0) as bar:
        for shard, findings in check_all(check, shards, min(workers, len(manifest.shards) or 1)):
            for finding in findings:
                report(finding)
            bar.update(shard.bytes)
            bar.set_postfix(wrong=report.count)
    check_tables(storage, manifest, report.damaged, report)


def _advice(report: _Report, storage: Storage) -> str:
    lines = [f"{report.count} findings: {storage} has faults"]
    if report.count > MOST_LINES:
        lines[:0] = [f"... and {report.count - MOST_LINES} more that are not listed"]
    if report.damaged:
        files = list(report.damaged)
        damaged = storage if {INDEX, REJECTS, MANIFEST} & set(files) else "these files"
        named = ", ".join(files[:8]) + (f" and {len(files) - 8} more" if len(files) > 8 else "")
        lines.append(
            f"what to do: copy {named} again from an intact copy of this dataset; without one, remove {damaged} and "
            "run the same `make shards` command again, which writes the same bytes"
        )
    else:
        lines.append("what to do: remove the files named above; nothing else is wrong")
    return "\n".join(lines)


def main(command: VerifyCommand) -> int:
    """Check everything, print the faults and what to do; returns the exit status."""
    started = time.perf_counter()
    storage = open_storage(command.dataset)
    report = _Report()
    manifest = _manifest(storage, report)
    if manifest is not None:
        _check(storage, manifest, command.workers or len(os.sched_getaffinity(0)), report)
    if manifest is not None and storage.size(JOB) is not None:
        print(f"note: an unfinished job appends inputs to {storage}; the same `make shards` command finishes it")
    if manifest is None or report.count:
        print(_advice(report, storage))
        return 1
    gigabytes = sum(shard.bytes for shard in manifest.shards) / 1e9
    print(
        f"{storage} is intact: {manifest.samples} samples, {manifest.frames} frames, {gigabytes:.3f} GB in "
        f"{len(manifest.shards)} shards, {manifest.rejects} rejects; checked in {time.perf_counter() - started:.1f} s"
    )
    return 0


if __name__ == "__main__":
    run_command(VerifyCommand, main)
