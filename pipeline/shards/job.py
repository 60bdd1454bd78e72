"""A job from its inputs to a finished dataset: plan, write what is missing, publish."""

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
from tqdm import tqdm

from pipeline.dataset import MANIFEST, PARTS, REJECTS, Manifest, parse_manifest
from pipeline.reading import reading
from pipeline.record import dali_index_file
from pipeline.settings import UserError, flatten
from pipeline.shards.command import PLACES, ShardsCommand, location_of
from pipeline.shards.decode import Inputs
from pipeline.shards.parts import Part, read_part
from pipeline.shards.plan import Plan, make_plan, read_shard_plan
from pipeline.shards.publish import publish, reopen
from pipeline.shards.rejects import Reason
from pipeline.shards.run import run_shards
from pipeline.shards.shard import PLAN, ShardTask
from pipeline.shards.sources import Source, data_root, list_sources
from pipeline.shards.versions import writer_versions
from pipeline.storage import Storage, open_storage
from pipeline.temporary import full_disk_is_temporary, temporary_folder
from pipeline.versions import installed_versions

JOB, LOCK = f"{PARTS}/job.json", f"{PARTS}/lock"


@dataclass(frozen=True)
class Outcome:
    """What a job found or made."""

    manifest: Manifest
    reasons: dict[str, int]
    """Rejects by reason."""
    report: dict[str, Any]
    """Figures of this run; empty if nothing was left to do."""


def _cannot_write(out: Storage, error: OSError) -> UserError:
    return UserError(f"cannot write to the output folder {out}: {error.strerror or error}")


def _cannot_read(place: str, error: OSError) -> UserError:
    return UserError(f"cannot read {error.filename or place}: {error.strerror or error}")


def _readable(sources: Iterator[Source], place: str) -> Iterator[Source]:
    """`sources`, with what cannot be read told from what cannot be written."""
    try:
        yield from sources
    except OSError as error:
        raise _cannot_read(place, error) from error


def _read_manifest(out: Storage) -> Manifest | None:
    return parse_manifest(out.read(MANIFEST), f"{out}/{MANIFEST}") if out.size(MANIFEST) is not None else None


def _header(command: ShardsCommand, plan: Plan) -> dict[str, Any]:
    """What the manifest says of a job beside its results."""
    identity = command.identity()
    groups = ["images"] if plan.media == "images" else ["frames"] + ["images"] * (plan.media == "frames")
    groups += ["triplets"] * (command.layout == "triplets")
    return {
        "name": command.name,
        "split": command.split,
        "media": "images" if plan.media == "images" else "clips",
        "layout": command.layout,
        "settings": {group: identity[group] for group in groups},
        "seed": command.seed,
        "samples_per_shard": plan.samples_per_shard,
        "inputs": plan.inputs,
        "classes": plan.classes,
        "source_fingerprint": plan.fingerprint,
    }


def _list_and_plan(command: ShardsCommand, target: Path) -> Plan:
    try:
        listing = list_sources(command.data, command.media, command.annotations, command.split, command.frames.pattern)
    except OSError as error:
        raise _cannot_read(command.data, error) from error
    listing.sources = _readable(listing.sources, command.data)
    plan = make_plan(listing, command.data, command.seed, command.samples_per_shard, target)
    if command.layout == "triplets" and plan.media == "images":
        raise UserError(f"layout = triplets needs clips; {command.data} holds images")
    return plan


def _check_same(out: Storage, state: str, expected: dict[str, Any], found: dict[str, Any], advice: str) -> None:
    now, recorded = flatten(expected), flatten(found)
    if differing := [key for key in now if now[key] != recorded.get(key)]:
        of_inputs = {"inputs", "classes", "source_fingerprint"} & set(differing)
        settings = [key for key in differing if key not in of_inputs]
        message = [f"{key} is {recorded.get(key)!r} there, {now[key]!r} now" for key in settings]
        if of_inputs:
            message.append(f"{found['inputs']} inputs there, {expected['inputs']} now, not the same")
        raise UserError(f"{out} holds {state} of other inputs or settings ({'; '.join(message)}): {advice}")


def _lists_the_same(command: ShardsCommand, out: Storage, plan: Plan) -> bool:
    """Whether the inputs of `command` are those that the unfinished job in `out` has planned, wherever they lie."""
    with temporary_folder() as folder, full_disk_is_temporary():
        name = "plan.parquet"
        now, current = _list_and_plan(command, folder / name), open_storage(str(folder))
        return (now.fingerprint, now.classes) == (plan.fingerprint, plan.classes) and all(
            list(read_shard_plan(out, PLAN, shard)) == list(read_shard_plan(current, name, shard))
            for shard in range(plan.shards)
        )


def _continue(command: ShardsCommand, out: Storage, identity: dict[str, Any]) -> Plan:
    """The plan of the unfinished job in `out`; its inputs may have moved since, or be spelled otherwise."""
    with reading(f"{out}/{JOB}", "valid JSON", f"Remove {out}/{PARTS} to begin anew"):
        job = json.loads(out.read(JOB))
    recorded = job["identity"]
    settings = {name: value for name, value in identity.items() if name not in PLACES}
    advice = "give those again to continue it, or choose another --out"
    _check_same(out, "an unfinished job", settings, recorded, advice)
    plan = Plan(**job["plan"])
    moved = [name for name in PLACES if location_of(recorded.get(name)) != identity[name]]
    if moved and not _lists_the_same(command, out, plan):
        message = "; ".join(f"{name} is {recorded.get(name)} there, {identity[name]} now" for name in moved)
        raise UserError(f"{out} holds an unfinished job of other inputs ({message}): {advice}")
    print(f"continuing the job in {out} with the {plan.inputs} inputs that it listed when it began")
    return plan


def _pending(out: Storage, task: ShardTask, plan: Plan, retry: bool) -> tuple[dict[int, Part], list[int]]:
    """Finished parts by shard, and the shards that are to be written."""
    result = {shard: read_part(out, task.shard_name(shard)) for shard in range(plan.shards)}
    parts = {shard: part for shard, part in result.items() if part is not None}
    again = {shard for shard, part in parts.items() if retry and set(part.reasons) - {Reason.DUPLICATE_KEY.value}}
    return parts, [shard for shard in range(plan.shards) if shard not in parts or shard in again]


def _write(
    task: ShardTask, plan: Plan, versions: dict[str, str], command: ShardsCommand
) -> tuple[list[Part], dict[str, Any]]:
    """Write what is missing, with progress; returns all parts in shard order, and figures of this run."""
    parts, pending = _pending(task.out, task, plan, command.retry_rejects)
    kept = sum(part.inputs for shard, part in parts.items() if shard not in set(pending))
    numbers = {task.shard_name(shard): shard for shard in pending}
    rejects = Counter({shard: sum(part.reasons.values()) for shard, part in parts.items()})
    first, last, task_seconds = float("inf"), 0.0, 0.0
    unit = " images" if plan.media == "images" else " clips"
    with tqdm(total=plan.inputs, initial=kept, unit=unit, desc="shards", smoothing=0) as bar:
        try:
            for done in run_shards(pending, task, versions, command.retry_rejects, command.workers) if pending else ():
                part = done.part
                first, last = min(first, done.started), max(last, done.ended)
                task_seconds += done.ended - done.started
                shard = numbers[part.name]
                parts[shard] = part
                rejects[shard] = sum(part.reasons.values())
                bar.update(part.inputs)
                bar.set_postfix_str(f"rejects={rejects.total()}")
        finally:
            task.out.clean()
            task.out.clean(PARTS)
    of_run = {
        "inputs_written": plan.inputs - kept,
        "seconds_running": round(max(last - first, 0.0), 3),
        "task_seconds": round(task_seconds, 3),
    }
    return [parts[shard] for shard in range(plan.shards)], of_run


def _report(
    parts: list[Part], plan: Plan, of_run: dict[str, Any], started: float, versions: dict[str, str]
) -> dict[str, Any]:
    """Figures of a job: `seconds_running` from first start to last end of a task, `task_seconds` of all tasks."""
    stages = sorted({stage for part in parts for stage in part.seconds})
    return {
        "inputs": plan.inputs,
        **of_run,
        "seconds": round(time.perf_counter() - started, 3),
        "stage_seconds": {stage: round(sum(part.seconds.get(stage, 0.0) for part in parts), 3) for stage in stages},
        "max_timestamp_error_s": round(max((part.max_timestamp_error_s for part in parts), default=0.0), 6),
        "ignored": plan.ignored,
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "versions": versions,
    }


def _finished(
    command: ShardsCommand, out: Storage, manifest: Manifest, versions: dict[str, str]
) -> tuple[dict[str, int], bool]:
    """Make sure that the dataset in `out` is what `command` asks for.

    Returns its rejects by reason, and whether there is something to do: rejects to try again, or shards that are lost
    or cut off.
    """
    with temporary_folder() as folder, full_disk_is_temporary():
        plan = _list_and_plan(command, folder / "plan.parquet")
    expected = _header(command, plan)
    lost = [
        shard.file
        for shard in manifest.shards
        if out.size(shard.file) != shard.bytes or out.size(dali_index_file(shard.file)) is None
    ]
    if lost:
        print(f"{len(lost)} shards of the finished dataset in {out} are missing or cut off: writing them again")
    if command.retry_rejects or lost:
        expected["versions"] = {**manifest.versions, **versions}
    _check_same(out, "a finished dataset", expected, manifest.model_dump(), "choose another --out or remove it")
    try:
        with out.parquet(REJECTS) as file:
            reasons = dict(Counter(file.read(columns=["reason"])["reason"].to_pylist()))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{out}/{REJECTS} cannot be read ({error}): remove {out} and run the job again") from error
    return reasons, bool(lost or (command.retry_rejects and set(reasons) - {Reason.DUPLICATE_KEY.value}))


def _begin(command: ShardsCommand, out: Storage, versions: dict[str, str], manifest: Manifest | None) -> Plan:
    """The plan of the job in `out`: a new one, an unfinished one, or a finished one that is opened again."""
    identity = {**command.identity(), "versions": versions}
    if manifest is None and out.size(JOB) is not None:
        return _continue(command, out, identity)
    with out.atomic_write(PLAN) as path:
        plan = _list_and_plan(command, path)
    out.write(JOB, json.dumps({"identity": identity, "plan": asdict(plan)}).encode())
    if manifest is not None:
        reopen(out, _task(command, out, plan), plan.shards, manifest)
    return plan


def _task(command: ShardsCommand, out: Storage, plan: Plan) -> ShardTask:
    root, tar = data_root(command.data)
    inputs = Inputs(root, tar, plan.media, command.frames, command.images)
    return ShardTask(inputs, out, command.name, command.seed, command.layout, command.triplets)


def run_job(command: ShardsCommand) -> Outcome:
    """Write all shards that are not there yet and publish the dataset.

    Raises:
        UserError: inputs or output cannot be used as asked.
    """
    started = time.perf_counter()
    out = open_storage(command.out)
    versions = writer_versions()
    manifest = _read_manifest(out)
    if manifest is not None:
        reasons, unfinished = _finished(command, out, manifest, versions)
        if not unfinished:
            if out.files(PARTS):  # of a job that was killed when all was done
                with out.exclusive_lock(LOCK):
                    out.remove(PARTS)
            return Outcome(manifest, reasons, {})
    elif out.size(JOB) is None and next(out.walk(), None) is not None:
        raise UserError(f"the output folder {out} is not empty and holds no unfinished job: choose another --out")
    with out.exclusive_lock(LOCK):
        try:
            out.clean()
            plan = _begin(command, out, versions, manifest)
        except OSError as error:
            raise _cannot_write(out, error) from error
        except UserError:
            if out.size(JOB) is None:
                out.remove(PARTS)  # nothing has begun
            raise
        parts, of_run = _write(_task(command, out, plan), plan, versions, command)
        all_versions = installed_versions(("tcore-pipeline", "pyarrow")) | versions
        report = _report(parts, plan, of_run, started, all_versions)
        manifest = publish(out, parts, {**_header(command, plan), "versions": all_versions}, report)
    reasons = sum((Counter(part.reasons) for part in parts), Counter())
    return Outcome(manifest, dict(reasons), report)
