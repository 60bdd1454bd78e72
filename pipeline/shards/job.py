"""A job from its inputs to a finished dataset, or from one to the next: plan, write the missing shards, publish."""

import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.dataset import JOB, MANIFEST, PARTS, REJECTS, Manifest, parse_manifest, repair_hint
from pipeline.differences import differences
from pipeline.reading import reading
from pipeline.record import dali_index_file
from pipeline.settings import UserError
from pipeline.shards.command import ShardsCommand
from pipeline.shards.decode import Inputs
from pipeline.shards.finished import Change, KnownInputs, without_removed, write_previous
from pipeline.shards.media import Media
from pipeline.shards.parts import PREVIOUS, Part
from pipeline.shards.plan import ListedInputs, Plan, listed_inputs, plan_all, read_shard_plan
from pipeline.shards.publish import Base, publish, shard_number
from pipeline.shards.remove import plan_removal, read_names
from pipeline.shards.run import Written, write_missing
from pipeline.shards.shard import PLAN, ShardTask
from pipeline.shards.sources import Data, Listing, Source, list_sources, open_data
from pipeline.shards.versions import writer_versions
from pipeline.storage import Storage, open_storage
from pipeline.temporary import full_disk_is_temporary, temporary_folder
from pipeline.versions import installed_versions

LOCK = f"{PARTS}/lock"
_OF_INPUTS = ("data", "annotations", "keys")
"""Settings in a job's identity that may change if the inputs and their keys stay the same."""
_NAMED = 5
"""Number of names of inputs in a message."""


@dataclass(frozen=True)
class Outcome:
    """The dataset of a finished job."""

    out: Storage
    manifest: Manifest
    reasons: dict[str, int]
    """Rejects by reason."""
    report: dict[str, Any]
    """Figures of this run; empty if nothing was left to do."""


@dataclass(frozen=True)
class _Record:
    """An unfinished job as its folder records it."""

    plan: Plan
    identity: dict[str, Any] | None
    """What the bytes depend on; None for a removal, which needs no inputs."""
    base: Base | None
    """The finished dataset that it changes."""
    header: dict[str, Any]
    """With `base`: the fields of the new manifest that do not depend on the shards."""

    @property
    def appends(self) -> bool:
        """Whether the job adds new inputs to a finished dataset."""
        return self.base is not None and len(self.header["appended"]) > len(self.base.manifest.appended)

    @property
    def rewrites(self) -> bool:
        """Whether it replaces shards of a finished dataset."""
        if self.base is None:
            return False
        shards = {shard_number(shard.file) for shard in self.base.manifest.shards} | {*self.base.shards_of_rejects}
        return not shards.isdisjoint(self.plan.numbers)


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
            self._data = open_data(command.data) if command.remove is None else Data("", self.out, None, "")
        except OSError as error:
            raise _cannot_read(command.data, error) from error

    def run(self) -> Outcome:
        """Write all missing shards and publish the dataset.

        Raises:
            UserError: inputs or output cannot be used as asked.
        """
        started = time.perf_counter()
        with temporary_folder() as folder:
            manifest = self._manifest()
            unfinished = self._unfinished(manifest)
            change, lost = None, ""
            if unfinished is not None:
                self._check_removable(unfinished)
            elif manifest is not None:
                change, lost = self._change(manifest, folder / "plan.parquet")
                if change is None:
                    if self.out.files(PARTS):  # of a job that was killed after publishing
                        with self.out.exclusive_lock(LOCK):
                            self.out.remove(PARTS)
                    return Outcome(self.out, manifest, self._reasons(), {})
            elif self.command.remove is not None:
                raise UserError(f"{self.out} holds no finished dataset to remove inputs from")
            elif next(self.out.walk(), None) is not None:
                raise UserError(
                    f"the output folder {self.out} is not empty and holds no unfinished job: choose another --out"
                )
            with self.out.exclusive_lock(LOCK):
                if (self._manifest(), self._unfinished(manifest)) != (manifest, unfinished):
                    raise UserError(f"another job has just changed {self.out}: run the same command again")
                outcome = self._write(self.begin(change, folder / "plan.parquet"), started)
        if lost:
            raise UserError(lost)
        if unfinished is not None and self._has_more_to_do(unfinished):
            return self.run()
        return outcome

    def begin(self, change: Change | None = None, planned: Path | None = None) -> Plan:
        """The plan of a new job, of the unfinished one in the output folder, or of a `change`, `planned` in a file."""
        try:
            self.out.clean()
            if change is not None and planned is not None:
                self._begin_change(change, planned)
                return change.plan
            if self.out.size(JOB) is not None:
                return self._continue(self._record())
            with self.out.atomic_write(PLAN) as path:
                plan = self._plan(path)
            self.out.write(JOB, json.dumps({"identity": self._identity(), "plan": asdict(plan)}).encode())
        except OSError as error:
            raise UserError(f"cannot write to the output folder {self.out}: {error.strerror or error}") from error
        except UserError:
            if self.out.size(JOB) is None:
                self.out.remove(PARTS)  # nothing has begun
            raise
        return plan

    def task(self, plan: Plan, base: Base | None = None) -> ShardTask:
        """What the workers need to write any shard of the plan."""
        command = self.command if base is None else base.manifest
        frames, images, clips = self.command.frames, self.command.images, self.command.clips
        inputs = Inputs(self._data.root, self._data.tar, plan.media, frames, images, clips)
        return ShardTask(
            inputs, self.out, command.name, command.seed, command.layout, self.command.triplets, tuple(plan.numbers)
        )

    def _write(self, plan: Plan, started: float) -> Outcome:
        """Write the missing shards of the plan that has begun, and publish the dataset."""
        command, record = self.command, self._record()
        task = self.task(plan, record.base)
        written = write_missing(plan, task, self._versions, command.retry_rejects, command.workers)
        versions = _all_versions(self._versions)
        report = _report(written, plan, time.perf_counter() - started, versions)
        header = record.header or {**self._header(plan.media, plan.spans > 0), **_fields(plan), "versions": versions}
        manifest = publish(self.out, record.base, written.parts, header, report)
        return Outcome(self.out, manifest, self._reasons(), report)

    def _begin_change(self, change: Change, planned: Path) -> None:
        """Record a job that changes a finished dataset, which is valid until the first of its shards is replaced."""
        for name in self.out.files(PARTS):  # of a job that was killed after publishing
            if name != LOCK:
                self.out.remove(name)
        self.out.remove(PREVIOUS)
        with self.out.atomic_write(PLAN) as path:
            shutil.copyfile(planned, path)
        write_previous(self.out, change)
        record = {
            "identity": None if self.command.remove is not None else self._identity(),
            "plan": asdict(change.plan),
            "base": change.base.manifest.model_dump(mode="json"),
            "shards_of_rejects": change.base.shards_of_rejects,
            "header": change.header,
        }
        self.out.write(JOB, json.dumps(record).encode())
        if change.rewritten:
            self.out.remove(MANIFEST)

    def _manifest(self) -> Manifest | None:
        if self.out.size(MANIFEST) is None:
            return None
        return parse_manifest(self.out.read(MANIFEST), f"{self.out}/{MANIFEST}")

    def _record(self) -> _Record:
        with reading(f"{self.out}/{JOB}", "valid JSON", f"Remove {self.out}/{PARTS} to start over"):
            record = json.loads(self.out.read(JOB))
            base = None
            if "base" in record:
                base = Base(Manifest.model_validate(record["base"]), record["shards_of_rejects"])
            identity = record["identity"] and {"keys": "stem", **record["identity"]}  # as in earlier versions
            return _Record(Plan(**record["plan"]), identity, base, record.get("header", {}))

    def _unfinished(self, manifest: Manifest | None) -> _Record | None:
        """The unfinished job; None if there is none, or if it was killed after publishing `manifest`."""
        if self.out.size(JOB) is None:
            return None
        record = self._record()
        changes_it = record.base is not None and record.base.manifest == manifest
        return record if manifest is None or changes_it else None

    def _has_more_to_do(self, finished: _Record) -> bool:
        """Whether the command asks for more than to finish the job that was unfinished."""
        return finished.identity is None or (self.command.append and not finished.appends)

    def _check_removable(self, unfinished: _Record) -> None:
        if self.command.remove is not None and unfinished.identity is not None:
            raise UserError(
                f"{self.out} holds an unfinished job: finish it with the command that began it, then use --remove"
            )

    def _listing(self, removed: Collection[str] = ()) -> Listing:
        command = self.command
        try:
            listing = list_sources(
                self._data, command.media, self._annotations, command.split, command.frames.pattern, command.keys
            )
        except OSError as error:
            raise _cannot_read(command.data, error) from error
        listing.sources = without_removed(_readable(listing.sources, command.data), removed)
        return listing

    @contextmanager
    def _listed(self, removed: Collection[str] = ()) -> Iterator[ListedInputs]:
        """All inputs of the command without the `removed` ones."""
        command = self.command
        with listed_inputs(self._listing(removed), command.seed, command.clips.cut_files) as listed:
            if command.layout == "triplets" and listed.media == "images":
                raise UserError(f"layout = triplets needs clips; {command.data} holds images")
            if command.clips.cut_files and listed.media != "clips":
                raise UserError(f"clips.length and clips.scenes need clips; {command.data} holds {listed.media}")
            if listed.spans and (fault := command.clips.stride_error(command.frames.fps)):
                raise UserError(f"{command.data} names spans of files: {fault}")
            yield listed

    def _plan(self, target: Path) -> Plan:
        """List all inputs and write the plan of the shards to `target`."""
        with self._listed() as listed:
            return plan_all(listed, self.command.samples_per_shard, target)

    def _identity(self) -> dict[str, Any]:
        """What the bytes of the dataset depend on."""
        uris = {"data": self._data.location, "annotations": self._annotations and self._annotations.location}
        return {**self.command.identity(), **uris, "versions": self._versions}

    def _header(self, media: Media, has_spans: bool) -> dict[str, Any]:
        """The fields of the manifest that follow from the settings, and whether lists name spans of files."""
        command, identity = self.command, self.command.identity()
        groups = ["images"] if media == "images" else ["frames"] + ["images"] * (media == "frames")
        groups += ["triplets"] * (command.layout == "triplets")
        are_cut = command.clips.cut_files or has_spans
        cut = {"clips": command.clips.model_dump(mode="json")} if are_cut else {}
        return {
            "name": command.name,
            "split": command.split,
            "media": "images" if media == "images" else "clips",
            "layout": command.layout,
            "settings": {group: identity[group] for group in groups} | cut,
            "seed": command.seed,
            "keys": command.keys,
        }

    def _continue(self, record: _Record) -> Plan:
        """The plan of the unfinished job; its inputs may have been moved, or be spelled differently."""
        plan = record.plan
        if record.identity is None:
            print(f"continuing to remove inputs from {self.out}")
        else:
            self._check_same(record.identity, record)
            print(f"continuing the job in {self.out} with the {plan.inputs} inputs that it listed when it began")
        if record.rewrites:
            self.out.remove(MANIFEST)  # if it was killed before that
        return plan

    def _check_same(self, recorded: dict[str, Any], record: _Record) -> None:
        """Check that the unfinished job had the same settings and inputs."""
        identity = self._identity()
        advice = "Give those again to continue it, or choose another --out"
        if difference := differences(recorded, identity, ignored=_OF_INPUTS):
            raise UserError(f"{self.out} holds an unfinished job with other settings: {difference}. {advice}")
        moved = differences(*({key: values[key] for key in _OF_INPUTS} for values in (recorded, identity)))
        if moved and (record.base is not None or not self._lists_the_same(record.plan)):
            raise UserError(f"{self.out} holds an unfinished job with other inputs: {moved}. {advice}")

    def _lists_the_same(self, plan: Plan) -> bool:
        """Whether the inputs are those of the unfinished job's `plan`."""
        with temporary_folder() as folder, full_disk_is_temporary():
            name = "plan.parquet"
            current, storage = self._plan(folder / name), open_storage(str(folder))
            return (current.fingerprint, current.classes) == (plan.fingerprint, plan.classes) and all(
                list(read_shard_plan(self.out, PLAN, shard)) == list(read_shard_plan(storage, name, shard))
                for shard in range(plan.shards)
            )

    def _change(self, manifest: Manifest, target: Path) -> tuple[Change | None, str]:
        """What the command changes in the finished dataset, planned in the file `target`; None if nothing is to do.

        The second value names damaged shards that cannot be written again, as their inputs are not listed.

        Raises:
            UserError: the dataset was made from other inputs or with other settings.
        """
        try:
            if self.command.remove is not None:
                return self._removal(manifest, self.command.remove, target), ""
            with full_disk_is_temporary(), self._listed(manifest.removed) as listed:
                return self._growth(manifest, listed, target)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"index or rejects of {self.out} cannot be read ({error}). {repair_hint(self.out)}"
            ) from error

    def _removal(self, manifest: Manifest, names: str, target: Path) -> Change | None:
        removal = plan_removal(self.out, manifest, read_names(names), target)
        if removal.change is None:
            print(f"nothing to remove: {self.out} has no input with a name in {names}")
        else:
            shards = len(removal.change.rewritten)
            print(
                f"removing {removal.inputs} inputs with {removal.samples} samples from {self.out}, which rewrites "
                f"{shards} of its shards"
            )
        if removal.unmatched:
            print(f"names that no input has: {_first(removal.unmatched)}")
        return removal.change

    def _growth(self, manifest: Manifest, listed: ListedInputs, target: Path) -> tuple[Change | None, str]:
        """New inputs, if these are appended, and shards to repair or to retry."""
        command, out = self.command, self.out
        damaged = [shard_number(shard.file) for shard in manifest.shards if not self._is_whole(shard.file, shard.bytes)]
        if damaged:
            print(f"{len(damaged)} shards of the finished dataset in {out} are missing or cut off: rewriting them")
        has_changed = bool(manifest.appended or manifest.removed)
        current = (listed.count(), list(listed.classes().values()), listed.fingerprint())
        same = not has_changed and current == (manifest.inputs, manifest.classes, manifest.source_fingerprint)
        may_differ = has_changed or command.append
        header = self._header(listed.media, listed.spans > 0 or manifest.is_cut)
        if same:
            del header["keys"]  # the fingerprint has the keys
        if not may_differ:
            header["samples_per_shard"] = listed.samples_per_shard(command.samples_per_shard)
        self._check_finished(manifest, header, None if same or may_differ else current[0])
        if same and not (damaged or command.retry_rejects):
            if command.append:
                print(f"nothing to append: {out} has the paths of all {current[0]} inputs of {command.data}")
            return None, ""
        known = KnownInputs(listed, out, manifest)
        if not same:
            known.check_classes(out)
        if known.new and not command.append:
            self._check_finished(manifest, {}, current[0])
        if gone := known.gone:
            print(f"{gone} inputs of {out} are not in {command.data}: their samples stay")
        if not same and (spans := known.spans):
            print(f"{spans} listed spans are of files that {out} has: if any of them is new, it is not appended")
        if command.append and known.new:
            print(f"appending {known.new} new inputs of the {current[0]} in {command.data} to {out}")
        elif command.append:
            print(f"nothing to append: {out} has the paths of all {current[0]} inputs of {command.data}")
        lost = known.lost(damaged)
        retried = known.retried() if command.retry_rejects else set()
        rewritten = (retried | {*damaged}) - lost.keys()
        unrepaired = (
            ""
            if not lost
            else (
                f"{len(lost)} damaged shards of {out} cannot be written again, as inputs of theirs are not in "
                f"{command.data}: {_first(list(lost.values()))}. Give the DATA that has them"
            )
        )
        if rewritten or known.new:
            self._check_finished(manifest, {"versions": {**manifest.versions, **self._versions}})
            change = known.change(target, rewritten, {*damaged} & rewritten, command.samples_per_shard)
            change.header["versions"] = _all_versions(self._versions)
            return change, unrepaired
        if unrepaired:
            raise UserError(unrepaired)
        return None, ""

    def _check_finished(self, manifest: Manifest, header: dict[str, Any], inputs: int | None = None) -> None:
        """Check that the finished dataset has the fields of `header`, and not other `inputs`, if a number is given."""
        recorded = {key: getattr(manifest, key) for key in header}
        difference = [differences(recorded, header)]
        if inputs is not None:
            difference.append(f"{manifest.inputs} inputs (recorded), {inputs} other inputs (now)")
        if message := "; ".join(filter(None, difference)):
            appending = "" if difference[0] else "; --append true adds inputs that it does not have"
            raise UserError(
                f"{self.out} holds a finished dataset with other inputs or settings: {message}. "
                f"Choose another --out or remove it{appending}"
            )

    def _reasons(self) -> dict[str, int]:
        """Rejects by reason."""
        try:
            with self.out.parquet(REJECTS) as file:
                return dict(Counter(file.read(columns=["reason"])["reason"].to_pylist()))
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"{self.out}/{REJECTS} cannot be read ({error}): remove {self.out} and run the job again"
            ) from error

    def _is_whole(self, file: str, size: int) -> bool:
        return self.out.size(file) == size and self.out.size(dali_index_file(file)) is not None


def _all_versions(writers: dict[str, str]) -> dict[str, str]:
    return installed_versions(("tcore-pipeline", "pyarrow")) | writers


def _fields(plan: Plan) -> dict[str, Any]:
    """The fields of the manifest of a new dataset that follow from its plan."""
    return {
        "samples_per_shard": plan.samples_per_shard,
        "inputs": plan.inputs,
        "classes": plan.classes,
        "source_fingerprint": plan.fingerprint,
    }


def _first(names: list[str]) -> str:
    """The first of some names, and how many there are more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


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
