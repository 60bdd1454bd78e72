"""`python -m indexing.knn`: features, search, neighbour table, report and gallery."""

import json
import re
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexing import gallery, job
from indexing.budget import peak_memory_gb
from indexing.command import KnnCommand
from indexing.report import REPORT, describe, read_report, refuse_foreign
from indexing.resume import cannot_write
from indexing.search import Rules
from indexing.store import FEATURES, features_identity, has_features
from indexing.supplied import import_features, supplied_metadata
from pipeline.dataset import ShardDataset
from pipeline.files import as_json, sha256_file
from pipeline.neighbours import NEIGHBOURS, table_metadata, write_neighbours
from pipeline.settings import UserError, run_command
from pipeline.storage import Storage, open_storage
from training.backbone.source import source_sha256

METRIC = "cosine"
GALLERY, SHEET = "gallery.html", "gallery.png"
LOCK = ".knn.lock"


def _feature_hashes(command: KnnCommand, dataset: ShardDataset) -> dict[str, str]:
    """Hashes of what the features are computed from."""
    dataset_hash = dataset.manifest.dataset_hash
    if command.features is not None:
        if not command.features.is_file():
            raise UserError(f"no features at {command.features}")
        weights_hash = supplied_metadata(command.features).get("weights_hash", "unknown")
        return features_identity(dataset_hash, weights_hash) | {"supplied_sha256": sha256_file(command.features)}
    assert command.weights is not None
    if not command.weights.exists():
        raise UserError(f"no weights at {command.weights}: write them with `python -m training.export`")
    return features_identity(dataset_hash, source_sha256(command.weights, command.backbone))


def feature_options(command: KnnCommand) -> list[str]:
    """The options of `indexing.features` that compute the features of a search."""
    names = ("shards", "weights", "out", "batch_size", "threads", "workers")
    options = [f"--{name}={value}" for name in names if (value := getattr(command, name)) is not None]
    for name, value in command.backbone.model_dump(mode="json", exclude_defaults=True).items():
        options.append(f"--backbone.{name}={','.join(map(str, value)) if isinstance(value, list) else value}")
    return options


def _compute_features(command: KnnCommand) -> None:
    """Run `indexing.features` as a separate process: torch and FAISS never share one."""
    status = subprocess.run([sys.executable, "-m", "indexing.features", *feature_options(command)]).returncode
    if status:  # it has printed the reason
        raise SystemExit(status)


def _make_features(command: KnnCommand, dataset: ShardDataset, out: Storage, hashes: dict[str, str]) -> float | None:
    """Write OUT/features.parquet; returns the seconds, None if it is up to date."""
    started = time.perf_counter()
    if has_features(out, hashes, len(dataset)):
        print(f"features are up to date: {out}/{FEATURES}")
        return None
    if command.features is not None:
        try:
            import_features(command.features, dataset, out, hashes)
        except OSError as error:
            raise cannot_write(out, error) from error
    else:
        _compute_features(command)
    return time.perf_counter() - started


def group_numbers(keys: pa.ChunkedArray, pattern: str) -> NDArray[np.int64]:
    """(N,) number of each key's group, as matched by the first group of `pattern`.

    Raises:
        UserError: a key does not match.
    """
    find = re.compile(pattern).search
    numbers: dict[str | None, int] = {}
    groups = np.empty(len(keys), np.int64)
    for row, key in enumerate(keys.to_pylist()):
        result = find(key)
        if result is None or result[1] is None:
            raise UserError(f"exclude_same_group = {pattern!r} does not match the key {key!r}")
        groups[row] = numbers.setdefault(result[1], len(numbers))
    return groups


def check_k(k: int, rows: int, groups: NDArray[np.int64] | None, folder: object) -> None:
    """Make sure that every query has k candidates.

    Raises:
        UserError: the dataset, or the dataset without the largest group, is too small.
    """
    if k >= rows:
        raise UserError(f"k = {k} needs more than {k} images; {folder} holds {rows}")
    if groups is not None and rows - (largest := int(np.bincount(groups).max())) < k:
        raise UserError(f"k = {k} needs {k} images outside a group; the largest group has {largest} of {rows} images")


def _identity(command: KnnCommand, hashes: dict[str, str]) -> dict[str, Any]:
    """Everything that the table depends on."""
    search = command.search
    identity = {
        **hashes,
        "metric": METRIC,
        "k": command.k,
        "max_similarity": command.max_similarity,
        "exclude_same_group": command.exclude_same_group,
        "search": "approximate" if search.approximate else "exact",
    }
    return {**identity, "probes": search.probes} if search.approximate else identity


def _summary(report: dict[str, Any], out: Storage) -> str:
    same, chance = report["same_class_rate"], report["same_class_rate_by_chance"]
    classes = "" if same is None else f"; neighbours of the same class {same:.3f} (by chance {chance:.3f})"
    recall = "" if report["recall"] is None else f"; recall of the approximate search {report['recall']:.4f}"
    features = "" if report["feature_seconds"] is None else f"features {report['feature_seconds']:.1f} s, "
    look = f"; look at {out}/{GALLERY}" if out.size(GALLERY) is not None else ""
    return (
        f"{report['images']} images, k = {report['k']}: {features}search {report['search_seconds']:.1f} s"
        f"{classes}{recall}; {out}/{NEIGHBOURS}{look}"
    )


def main(command: KnnCommand) -> None:
    """Make the table and print its summary."""
    dataset, out = ShardDataset(command.shards), open_storage(command.out)
    groups = group_numbers(dataset.keys, command.exclude_same_group) if command.exclude_same_group else None
    check_k(command.k, len(dataset), groups, command.shards)
    _check_approximate(command, len(dataset))
    hashes = _feature_hashes(command, dataset)
    identity = _identity(command, hashes)
    made_from = json.dumps(identity, sort_keys=True)
    refuse_foreign(out, (GALLERY, SHEET))
    if (table_metadata(out) or {}).get("made_from") == made_from and out.size(REPORT) is not None:
        print(f"the table is up to date: {_summary(read_report(out) or {}, out)}")
        return
    with out.exclusive_lock(LOCK):
        feature_seconds = _make_features(command, dataset, out, hashes)
        result = job.run_search(
            out, command.search_settings, Rules(command.k, command.max_similarity, groups), identity
        )
        result = result._replace(similarity=result.similarity.astype(np.float32))  # as the table has them
        report = {**identity, **_figures(command, dataset, feature_seconds, result)}
        metadata = {**{key: str(identity[key]) for key in (*hashes, "metric")}, "made_from": made_from}
        try:
            _write(command, dataset, out, result, report, metadata)
            job.close(out)
        except OSError as error:
            raise cannot_write(out, error) from error
    print(_summary(report, out))


def _figures(
    command: KnnCommand, dataset: ShardDataset, feature_seconds: float | None, result: job.SearchResult
) -> dict[str, Any]:
    """Content of the report beside the identity of the table."""
    return {
        "recall": result.recall,
        "images": len(dataset),
        "feature_seconds": feature_seconds,
        "features_per_second": feature_seconds and len(dataset) / feature_seconds,
        "search_seconds": result.seconds,
        "queries_per_second": len(dataset) / result.seconds,
        "peak_memory_gb": peak_memory_gb(),
        "memory_budget_gb": command.search.memory_gb,
        **describe(result.rows, result.similarity, dataset.label),
    }


def _write(
    command: KnnCommand,
    dataset: ShardDataset,
    out: Storage,
    result: job.SearchResult,
    report: dict[str, Any],
    metadata: dict[str, str],
) -> None:
    """Write report and gallery, then the table, which marks the job as finished."""
    out.write(REPORT, as_json(report))
    for name in (GALLERY, SHEET):
        out.remove(name)
    if command.gallery:
        drawn = gallery.random_queries(command.gallery, len(dataset))
        out.write(SHEET, gallery.sheet(dataset, gallery.gallery_rows(drawn, result.rows, result.similarity)))
        page = gallery.page(dataset, result.rows, result.similarity, report, command.gallery)
        out.write(GALLERY, page.encode())
    keys = pa.chunked_array([dataset.keys.combine_chunks()])
    write_neighbours(out, keys, result.rows, result.similarity, metadata)


def _check_approximate(command: KnnCommand, rows: int) -> None:
    least = command.search.approximate_from
    if command.search.approximate and rows < least:
        raise UserError(
            f"search.approximate is for sets of {least} images or more; {command.shards} holds {rows}, for which the "
            "exact search is fast enough (search.approximate_from sets the limit)"
        )


if __name__ == "__main__":
    run_command(KnnCommand, main)
