"""The report beside a neighbour table: its statistics and its file."""

import json
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours import NEIGHBOURS, table_metadata
from pipeline.settings import UserError
from pipeline.storage import Storage

REPORT = "report.json"

DUPLICATE = 0.999
"""Similarity from which the report counts two images as duplicates."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def describe(rows: NDArray[np.int32], similarity: NDArray[np.float32], label: NDArray[np.integer]) -> dict[str, Any]:
    """Statistics of a table of (N, k) `rows` and `similarity` over samples with (N,) `label`, -1 for none."""
    return {
        "similarity_quantiles": quantiles(similarity),
        "similarity_by_rank": similarity.mean(axis=0, dtype=np.float64).tolist(),
        "duplicate_share": float((similarity[:, 0] >= DUPLICATE).mean()),
        **same_class(rows, label),
        **hubness(rows),
    }


def quantiles(values: NDArray[np.floating]) -> dict[str, float]:
    """Quantiles of all values, by name."""
    return dict(zip(map(str, _QUANTILES), np.quantile(values, _QUANTILES).tolist(), strict=True))


def same_class(rows: NDArray[np.int32], label: NDArray[np.integer]) -> dict[str, Any]:
    """Share of neighbours that have their query's class, overall and by rank, and by chance.

    Only samples with a label count; None where there are none.
    """
    labeled = label >= 0
    counts = np.bincount(label[labeled])
    known = int(counts.sum())
    if known < 2:
        return {"same_class_rate": None, "same_class_rate_by_rank": None, "same_class_rate_by_chance": None}
    pairs = labeled[:, None] & labeled[rows]
    same = (label[rows] == label[:, None]) & pairs
    by_rank = same.sum(axis=0) / np.maximum(pairs.sum(axis=0), 1)
    return {
        "same_class_rate": float(same.sum() / max(1, pairs.sum())),
        "same_class_rate_by_rank": by_rank.tolist(),
        "same_class_rate_by_chance": float((counts * (counts - 1)).sum() / (known * (known - 1))),
    }


def hubness(rows: NDArray[np.int32]) -> dict[str, Any]:
    """How unevenly rows appear as neighbours of others (Radovanovic et al., Hubs in Space, JMLR 2010)."""
    appears = np.bincount(rows.ravel(), minlength=len(rows))
    centered = appears - appears.mean()
    spread = float(np.sqrt(np.square(centered).mean()))
    return {
        "most_popular_row": int(appears.argmax()),
        "most_popular_row_appears": int(appears.max()),
        "never_a_neighbour": float((appears == 0).mean()),
        "popularity_skewness": float(np.power(centered, 3).mean() / spread**3) if spread else 0.0,
    }


def refuse_foreign(out: Storage, pages: Collection[str]) -> None:
    """Make sure that table, report and `pages` in OUT, which will be replaced, were written by an earlier job.

    Raises:
        UserError: one of them is not.
    """
    foreign = []
    if out.size(NEIGHBOURS) is not None and "dataset_hash" not in (table_metadata(out) or {}):
        foreign.append(NEIGHBOURS)
    if out.size(REPORT) is None:
        foreign += [name for name in pages if out.size(name) is not None]  # pages are written after the report
    elif read_report(out) is None:
        foreign.append(REPORT)
    if foreign:
        raise UserError(
            f"{out}/{foreign[0]} was not written by this program and would be replaced: move it away, or "
            "choose another --out"
        )


def read_report(out: Storage) -> dict[str, Any] | None:
    """The report in `out`; None if the file is not a report."""
    try:
        report = json.loads(out.read(REPORT))
    except (ValueError, RecursionError):
        return None
    return report if isinstance(report, dict) and "dataset_hash" in report else None
