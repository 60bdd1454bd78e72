"""The Ray Data job: one task a shard, resumable, and the manifest that ends it."""

import contextlib
import hashlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from tqdm import tqdm

from pipeline.dataset import INDEX, INDEX_SCHEMA, MANIFEST, REJECTS, REJECTS_SCHEMA, Manifest, Shard, read_manifest
from pipeline.files import TEMPORARY_PREFIX, atomic_path, remove, write_bytes
from pipeline.settings import UserError
from pipeline.shards.ffmpeg import ffmpeg_version
from pipeline.shards.frames import FrameSettings
from pipeline.shards.plan import Reject, ShardPlan
from pipeline.shards.shard import PARTS, Part, ShardTask, part_path, read_part, write_shard
from pipeline.shards.sources import Listing, Source

PLAN_FINGERPRINT = "plan"


@dataclass(frozen=True)
class JobFacts:
    """What the manifest says of a job beside its results."""

    name: str
    split: str
    seed: int
    samples_per_shard: int


def source_fingerprint(data: Path, sources: list[Source]) -> str:
    """Hex SHA-256 over path and size of every input, in path order."""
    digest = hashlib.sha256()
    for source in sources:
        with contextlib.suppress(FileNotFoundError):  # it vanished since it was listed: its task will reject it
            digest.update(f"{source.path}\0{(data / source.path).stat().st_size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def check_ray_address(address: str) -> None:
    """Make sure that something listens at `address` (host:port or ray://host:port); Ray itself waits for very long.

    Raises:
        UserError: nothing answers within ten seconds.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return  # empty, or a word like `auto` that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS = {address}: {error}") from error


@contextlib.contextmanager
def _ray(workers: int | None) -> Iterator[None]:
    """Join the cluster that RAY_ADDRESS names, else start one on this machine; leave no process behind."""
    check_ray_address(os.environ.get("RAY_ADDRESS", ""))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the coming default; unset, Ray warns
    local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    ray.init(logging_level=logging.ERROR, log_to_driver=False, **local)
    try:
        yield
    finally:
        ray.shutdown()


def _finished_parts(plans: list[ShardPlan], task: ShardTask, workers: int | None) -> Iterator[Part]:
    """Write the shards of `plans` as Ray Data tasks; yields each part when it is done, in any order."""

    def build(row: dict[str, Any]) -> dict[str, Any]:
        return {"name": write_shard(row["plan"], task).name}

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with _ray(workers):
        rows = ray.data.from_items([{"plan": plan} for plan in plans], override_num_blocks=len(plans))
        try:
            for row in rows.map(build, num_cpus=1).iter_rows():
                part = read_part(task.out, row["name"])
                assert part is not None, f"task of {row['name']} returned before its part was written"
                yield part
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, OSError):
                raise UserError(
                    f"cannot write shards to {task.out}: {cause.strerror or cause}; finished shards are kept, "
                    "run the same command again to continue"
                ) from error
            raise


def _check_output(out: Path, fingerprint: str) -> None:
    """Make sure that `out` is new or holds an unfinished job with the same inputs and settings."""
    marker = out / PARTS / PLAN_FINGERPRINT
    if not (out / PARTS).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"the output folder {out} is not empty and holds no unfinished job: choose another --out")
    elif not marker.is_file() or marker.read_text() != fingerprint:
        raise UserError(
            f"{out} holds an unfinished job with other inputs or settings: choose another --out or remove it"
        )
    try:
        write_bytes(marker, fingerprint.encode())
    except OSError as error:
        raise UserError(f"cannot write to the output folder {out}: {error.strerror}") from error
    for leftover in out.glob(f"{TEMPORARY_PREFIX}*"):
        remove(leftover)


def _publish(out: Path, plans: list[ShardPlan], rejects: list[Reject], manifest: Manifest) -> None:
    """Merge the index parts in shard order, write rejects, then the manifest, which makes the dataset valid."""
    with atomic_path(out / INDEX) as temporary, pq.ParquetWriter(temporary, INDEX_SCHEMA) as writer:
        for plan in plans:
            writer.write_table(
                pq.read_table(part_path(out, plan.name)).cast(INDEX_SCHEMA).replace_schema_metadata(None)
            )
    with atomic_path(out / REJECTS) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(r) for r in rejects], REJECTS_SCHEMA), temporary)
    write_bytes(out / MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
    remove(out / PARTS)


def run_job(
    listing: Listing,
    plans: list[ShardPlan],
    planned_rejects: list[Reject],
    task: ShardTask,
    facts: JobFacts,
    workers: int | None,
) -> tuple[Manifest, Counter[str], bool]:
    """Write all shards of `plans` that are not there yet and publish the dataset.

    Returns the manifest, rejects by reason, and whether anything was written (False: it was finished already).

    Raises:
        UserError: the output folder holds something else or cannot be written.
    """
    out = task.out
    header = {
        **asdict(facts),
        "media": listing.media,
        "layout": "frames",
        "settings": task.settings.model_dump(exclude={"deadline_s"}),
        "source_fingerprint": source_fingerprint(task.data, listing.sources),
        "classes": listing.classes,
        "inputs": len(listing.sources),
    }
    versions = {"tcore-pipeline": version("tcore-pipeline"), "pillow": version("pillow")}
    if isinstance(task.settings, FrameSettings):
        versions["ffmpeg"] = ffmpeg_version()
    if (out / MANIFEST).is_file():
        finished = read_manifest(out)
        if all(getattr(finished, key) == value for key, value in header.items()):
            reasons = Counter(pq.read_table(out / REJECTS)["reason"].to_pylist())
            return finished, reasons, False
        raise UserError(f"{out} holds a finished dataset of other inputs or settings: choose another --out")
    _check_output(out, hashlib.sha256(repr((sorted(header.items()), versions)).encode()).hexdigest())

    parts = {plan.name: part for plan in plans if (part := read_part(out, plan.name)) is not None}
    pending = [plan for plan in plans if plan.name not in parts]
    total = sum(len(plan.sources) for plan in plans)
    kept = total - sum(len(plan.sources) for plan in pending)
    with tqdm(total=total, initial=kept, unit=listing.media.removesuffix("s"), desc="shards", smoothing=0) as bar:
        try:
            for part in _finished_parts(pending, task, workers) if pending else ():
                parts[part.name] = part
                bar.update(part.samples + len(part.rejects))
                bar.set_postfix(rejects=sum(len(p.rejects) for p in parts.values()))
        finally:
            for leftover in out.glob(f"{TEMPORARY_PREFIX}*"):
                remove(leftover)

    ordered = [parts[plan.name] for plan in plans]
    rejects = planned_rejects + [reject for part in ordered for reject in part.rejects]
    rejects.sort(key=lambda reject: os.fsencode(reject.source))
    manifest = Manifest(
        **header,
        versions=versions,
        samples=sum(part.samples for part in ordered),
        frames=sum(part.frames for part in ordered),
        rejects=len(rejects),
        shards=[
            Shard(file=f"{part.name}.tar", samples=part.samples, bytes=part.bytes, sha256=part.sha256)
            for part in ordered
            if part.samples
        ],
    )
    _publish(out, plans, rejects, manifest)
    return manifest, Counter(reject.reason for reject in rejects), True
