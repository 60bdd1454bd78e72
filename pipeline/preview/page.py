"""The page: samples with their triplets, classes, distributions and rejects in one self-contained file."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.dataset import Manifest
from pipeline.preview.strips import Strip
from pipeline.preview.survey import DURATION_UNIT_S, SIZE_UNIT_BYTES, Survey
from pipeline.report.page import render
from pipeline.report.palette import ROLES
from pipeline.report.plots import falling, histogram
from pipeline.sampling.plan import PlanSettings
from pipeline.sampling.sandwich import SandwichSettings

MOST_CLASSES = 45
"""With more classes, only the largest and the smallest are named."""
_ENDS = 15


def _facts(manifest: Manifest, clips: int) -> list[tuple[str, str]]:
    size = sum(shard.bytes for shard in manifest.shards)
    tried = "the segments" if manifest.is_cut else "the inputs"
    amount = f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
    return [
        (f"{clips:,}", manifest.media),
        *([(f"{manifest.samples:,}", "triplets")] if manifest.layout == "triplets" else []),
        *([(f"{manifest.frames:,}", "frames")] if manifest.media == "clips" else []),
        (f"{len(manifest.classes):,}", "classes"),
        (amount, f"in {len(manifest.shards):,} shards"),
        (f"{manifest.rejects:,}", f"rejects, {100 * manifest.rejects / max(1, manifest.candidates):.1f} % of {tried}"),
    ]


def _classes(manifest: Manifest, survey: Survey) -> list[tuple[str, int]]:
    """Names and counts, largest first, with samples without a class if there are any."""
    counts = np.zeros(len(manifest.classes) + 1, np.int64)
    known = survey.classes.counts[: len(counts)]
    counts[: len(known)] = known
    named = list(zip(["without class", *manifest.classes], counts.tolist(), strict=True))[0 if counts[0] else 1 :]
    return sorted(named, key=lambda item: (-item[1], item[0]))


def render_page(
    title: str, manifest: Manifest, survey: Survey, samples: Iterable[Strip], settings: PlanSettings, notes: list[str]
) -> str:
    """The page as HTML; `samples` are consumed one at a time, and `notes` are shown above them."""
    subtitle = f"{manifest.media}, split {manifest.split}, layout {manifest.layout}, seed {manifest.seed}"
    if manifest.media == "clips":
        subtitle += f", {manifest.settings['frames']['fps']:g} frames a second"
    classes = _classes(manifest, survey)
    distributions = {
        "Duration": (survey.durations, DURATION_UNIT_S, "s"),
        "Width": (survey.widths, 1, "pixels"),
        "Height": (survey.heights, 1, "pixels"),
        "Size of a JPEG": (survey.frame_bytes, SIZE_UNIT_BYTES / 1000, "kB"),
    }
    if manifest.media == "images":
        del distributions["Duration"]
    return render(
        Path(__file__).with_name("page.html"),
        title=title,
        subtitle=subtitle,
        facts=_facts(manifest, int(survey.classes.counts.sum())),
        manifest=manifest,
        seed=settings.seed,
        ranges="the paper's ranges" if settings.sandwich == SandwichSettings() else "the given ranges",
        notes=notes,
        roles=ROLES,
        samples=samples,
        classes=classes,
        curve=falling(np.array([count for _, count in classes])) if len(classes) > MOST_CLASSES else "",
        ends=_ENDS,
        histograms={
            name: histogram(tally.counts, scale, unit)
            for name, (tally, scale, unit) in distributions.items()
            if tally.counts.any()
        },
        rejects=sorted(survey.rejects.items(), key=lambda item: -item[1].count),
        inputs=max(1, manifest.candidates),
        made_with=json.dumps(
            {**manifest.model_dump(exclude={"shards", "classes"}), "dataset_hash": manifest.dataset_hash}, indent=2
        ),
    )
