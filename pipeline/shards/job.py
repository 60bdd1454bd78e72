"""A job from its inputs to a finished dataset: plan, write the missing shards, publish."""

import json
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.dataset import MANIFEST, PARTS, REJECTS, Manifest, parse_manifest
from pipeline.differences import differences
from pipeline.reading import reading
from pipeline.record import dali_index_file
from pipeline.settings import UserError
from pipeline.shards.command import ShardsCommand
from pipeline.shards.decode import Inputs
from pipeline.shards.parts import Part
from pipeline.shards.plan import Plan, make_plan, read_shard_plan
from pipeline.shards.publish import publish, reopen
from pipeline.shards.run import Written, write_missing
from pipeline.shards.shard import PLAN, ShardTask
from pipeline.shards.sources import Source, list_sources, open_data
from pipeline.shards.versions import writer_versions
from pipeline.spec import Reason
from pipeline.storage import Storage, open_storage
from pipeline.temporary import full_disk_is_temporary, temporary_folder
from pipeline.versions import installed_versions

JOB, LOCK = f"{PARTS}/job.json", f"{PARTS}/lock"
_URIS = ("data", "annotations")
"""Keys of a job's identity that may change if the inputs stay the same."""
_INPUTS = ("inputs", "classes", "source_fingerprint")
"""Fields of the manifest that depend on the inputs."""


@dataclass(frozen=True)
class Outcome:
    """The dataset of a finished job."""

    out: Storage
    manifest: Manifest
    reasons: dict[str, int]
    """Rejects by reason."""
    report: dict[str, Any]
    """Figures of this run; empty if nothing was left to do."""


def _cannot_read(uri: str, error: OSError) -> UserError:
    return UserError(f"cannot read {error.filename or uri}: {error.strerror or error}")


def _readable(sources: Iterator[Source], uri: str) -> Iterator[Source]:
    """Pass `sources` on; an input that cannot be read becomes a UserError, unlike an output that cannot be written."""
    try:
        yield from sources
    except OSError as error:
        raise _cannot_read(uri, error) from error


class ShardJob:
    """The job of one command; opens its inputs and its output folder once.

    Raises:
        UserError: the inputs or the output folder cannot be opened.
    """

    def __init__(self, command: ShardsCommand) -> None:
        self.command = command
        self.out: Storage = open_storage(command.out)
        self._annotations = None if command.annotations is None else open_storage(command.annotations)
        self._versions = writer_versions()
        try:
            self._data = open_data(command.data)
        except OSError as error:
            raise _cannot_read(command.data, error) from error

    def run(self) -> Outcome:
        """Write all missing shards and publish the dataset.

        Raises:
            UserError: inputs or output cannot be used as asked.
        """
        started = time.perf_counter()
        manifest = self._manifest()
        if manifest is not None:
            reasons, is_complete = self._check_finished(manifest)
            if is_complete:
                if self.out.files(PARTS):  # of a job that was killed after publishing
                    with self.out.exclusive_lock(LOCK):
                        self.out.remove(PARTS)
                return Outcome(self.out, manifest, reasons, {})
        elif self.out.size(JOB) is None and next(self.out.walk(), None) is not None:
            raise UserError(
                f"the output folder {self.out} is not empty and holds no unfinished job: choose another --out"
            )
        with self.out.exclusive_lock(LOCK):
            plan = self.begin(manifest)
            command = self.command
            written = write_missing(plan, self.task(plan), self._versions, command.retry_rejects, command.workers)
            versions = installed_versions(("tcore-pipeline", "pyarrow")) | self._versions
            report = _report(written, plan, time.perf_counter() - started, versions)
            manifest = publish(self.out, written.parts, {**self._header(plan), "versions": versions}, report)
        reasons = sum((Counter(part.reasons) for part in written.parts), Counter())
        return Outcome(self.out, manifest, dict(reasons), report)

    def begin(self, manifest: Manifest | None = None) -> Plan:
        """The plan of a new job, of the unfinished one in the output folder, or of the finished one of `manifest`."""
        try:
            self.out.clean()
            if manifest is None and self.out.size(JOB) is not None:
                return self._continue()
            with self.out.atomic_write(PLAN) as path:
                plan = self._plan(path)
            self.out.write(JOB, json.dumps({"identity": self._identity(), "plan": asdict(plan)}).encode())
            if manifest is not None:
                reopen(self.out, self.task(plan), plan.shards, manifest)
        except OSError as error:
            raise UserError(f"cannot write to the output folder {self.out}: {error.strerror or error}") from error
        except UserError:
            if self.out.size(JOB) is None:
                self.out.remove(PARTS)  # nothing has begun
            raise
        return plan

    def task(self, plan: Plan) -> ShardTask:
        """What the workers need to write any shard of the plan."""
        command = self.command
        inputs = Inputs(self._data.root, self._data.tar, plan.media, command.frames, command.images, command.clips)
        return ShardTask(inputs, self.out, command.name, command.seed, command.layout, command.triplets)

    def _manifest(self) -> Manifest | None:
        if self.out.size(MANIFEST) is None:
            return None
        return parse_manifest(self.out.read(MANIFEST), f"{self.out}/{MANIFEST}")

    def _plan(self, target: Path) -> Plan:
        """List all inputs and write the plan of the shards to `target`."""
        command = self.command
        try:
            listing = list_sources(self._data, command.media, self._annotations, command.split, command.frames.pattern)
        except OSError as error:
            raise _cannot_read(command.data, error) from error
        listing.sources = _readable(listing.sources, command.data)
        plan = make_plan(listing, command.seed, command.samples_per_shard, target, command.clips.cut_files)
        if command.layout == "triplets" and plan.media == "images":
            raise UserError(f"layout = triplets needs clips; {command.data} holds images")
        if command.clips.cut_files and plan.media == "images":
            raise UserError(f"clips.length and clips.scenes need clips; {command.data} holds images")
        if plan.spans and (fault := command.clips.stride_error(command.frames.fps)):
            raise UserError(f"{command.data} names spans of files: {fault}")
        return plan

    def _identity(self) -> dict[str, Any]:
        """What the bytes of the dataset depend on."""
        uris = {"data": self._data.location, "annotations": self._annotations and self._annotations.location}
        return {**self.command.identity(), **uris, "versions": self._versions}

    def _header(self, plan: Plan) -> dict[str, Any]:
        """The fields of the manifest that are known before any shard is written."""
        command, identity = self.command, self.command.identity()
        groups = ["images"] if plan.media == "images" else ["frames"] + ["images"] * (plan.media == "frames")
        groups += ["triplets"] * (command.layout == "triplets")
        cut = {"clips": command.clips.model_dump(mode="json")} if command.clips.cut_files or plan.spans else {}
        return {
            "name": command.name,
            "split": command.split,
            "media": "images" if plan.media == "images" else "clips",
            "layout": command.layout,
            "settings": {group: identity[group] for group in groups} | cut,
            "seed": command.seed,
            "samples_per_shard": plan.samples_per_shard,
            "inputs": plan.inputs,
            "classes": plan.classes,
            "source_fingerprint": plan.fingerprint,
        }

    def _continue(self) -> Plan:
        """The plan of the unfinished job; its inputs may have been moved, or be spelled differently."""
        with reading(f"{self.out}/{JOB}", "valid JSON", f"Remove {self.out}/{PARTS} to start over"):
            job = json.loads(self.out.read(JOB))
            recorded, plan = dict(job["identity"]), Plan(**job["plan"])
        identity = self._identity()
        advice = "Give those again to continue it, or choose another --out"
        if difference := differences(recorded, identity, ignored=_URIS):
            raise UserError(f"{self.out} holds an unfinished job with other settings: {difference}. {advice}")
        moved = differences(*({key: values[key] for key in _URIS} for values in (recorded, identity)))
        if moved and not self._lists_the_same(plan):
            raise UserError(f"{self.out} holds an unfinished job with other inputs: {moved}. {advice}")
        print(f"continuing the job in {self.out} with the {plan.inputs} inputs that it listed when it began")
        return plan

    def _lists_the_same(self, plan: Plan) -> bool:
        """Whether the inputs are those of the unfinished job's `plan`."""
        with temporary_folder() as folder, full_disk_is_temporary():
            name = "plan.parquet"
            current, storage = self._plan(folder / name), open_storage(str(folder))
            return (current.fingerprint, current.classes) == (plan.fingerprint, plan.classes) and all(
                list(read_shard_plan(self.out, PLAN, shard)) == list(read_shard_plan(storage, name, shard))
                for shard in range(plan.shards)
            )

    def _check_finished(self, manifest: Manifest) -> tuple[dict[str, int], bool]:
        """Rejects by reason of the finished dataset, and whether nothing is left to do.

        Left to do are rejects that shall be tried again, and shards that are missing or cut off.

        Raises:
            UserError: the dataset was made from other inputs or with other settings.
        """
        with temporary_folder() as folder, full_disk_is_temporary():
            header = self._header(self._plan(folder / "plan.parquet"))
        damaged = [shard.file for shard in manifest.shards if not self._is_whole(shard.file, shard.bytes)]
        if damaged:
            print(f"{len(damaged)} shards of the finished dataset in {self.out} are missing or cut off: rewriting them")
        if self.command.retry_rejects or damaged:
            header["versions"] = {**manifest.versions, **self._versions}
        recorded = {key: getattr(manifest, key) for key in header}
        difference = [differences(recorded, header, ignored=_INPUTS)]
        if any(recorded[key] != header[key] for key in _INPUTS):
            difference.append(f"{manifest.inputs} inputs (recorded), {header['inputs']} other inputs (now)")
        if message := "; ".join(filter(None, difference)):
            raise UserError(
                f"{self.out} holds a finished dataset with other inputs or settings: {message}. "
                "Choose another --out or remove it"
            )
        try:
            with self.out.parquet(REJECTS) as file:
                reasons = dict(Counter(file.read(columns=["reason"])["reason"].to_pylist()))
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{self.out}/{REJECTS} cannot be read ({error}): remove {self.out} and run the job again"
            ) from error
        retries = self.command.retry_rejects and set(reasons) - {Reason.DUPLICATE_KEY.value}
        return reasons, not (damaged or retries)

    def _is_whole(self, file: str, size: int) -> bool:
        return self.out.size(file) == size and self.out.size(dali_index_file(file)) is not None


def _report(written: Written, plan: Plan, seconds: float, versions: dict[str, str]) -> dict[str, Any]:
    """Figures of a run: `seconds_running` from the first start to the last end of a task, `task_seconds` of all."""
    parts: list[Part] = written.parts
    stages = sorted({stage for part in parts for stage in part.seconds})
    return {
        "inputs": plan.inputs,
        "inputs_written": written.inputs,
        "seconds_running": round(written.seconds_running, 3),
        "task_seconds": round(written.task_seconds, 3),
        "seconds": round(seconds, 3),
        "stage_seconds": {stage: round(sum(part.seconds.get(stage, 0.0) for part in parts), 3) for stage in stages},
        "max_timestamp_error_s": round(max((part.max_timestamp_error_s for part in parts), default=0.0), 6),
        "ignored": plan.ignored | dict(sum((Counter(part.left_out) for part in parts), Counter[str]())),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "versions": versions,
    }
