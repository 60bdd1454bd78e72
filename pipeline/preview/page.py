"""The page: samples with their draws, classes, distributions, rejects; one file without outside parts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset import Manifest
from pipeline.preview.strips import ROLES, Draw, Strip
from pipeline.preview.survey import DURATION_UNIT_S, SIZE_UNIT_BYTES, Survey
from pipeline.report.page import jpeg_uri, render
from pipeline.report.palette import ROLES as ROLE_COLORS
from pipeline.report.plots import falling, histogram

_STRIP_SIZE = (160, 120)
_DRAW_SIZE = (360, 270)
MOST_CLASSES = 45
"""With more classes than this, only the largest and the smallest are named."""
_ENDS = 15


def sample(strip: Strip) -> dict[str, Any]:
    """What the page shows of one sample: its frames in order of time, and which of them the draws take."""
    size = "{} x {}".format(*strip.size)
    name = strip.class_name or "without class"
    if not strip.draws:
        return {"name": name, "facts": f"{strip.key}, {size}", "uri": jpeg_uri(strip.pictures[0], _DRAW_SIZE)}
    facts = f"{strip.key}: {strip.num_frames} frames, {strip.duration_s:.1f} s, {size}, from {strip.source}"
    frames = {frame: jpeg_uri(strip.pictures[frame], _STRIP_SIZE) for frame in strip.even}
    draws = [{"name": draw.name, "frames": _triplet(strip, draw)} for draw in strip.draws]
    return {"name": name, "facts": facts, "frames": frames, "draws": draws}


def _triplet(strip: Strip, draw: Draw) -> list[dict[str, Any]]:
    return [
        {
            "role": role,
            "number": frame,
            "place": f"{100 * (frame + 0.5) / strip.num_frames:.2f}",
            "caption": f"{role}, {strip.times_s[frame]:.2f} s",
            "uri": jpeg_uri(strip.pictures[frame], _DRAW_SIZE),
        }
        for role, frame in zip(ROLES, draw.frames, strict=True)
    ]


def _facts(manifest: Manifest, clips: int) -> list[tuple[str, str]]:
    size = sum(shard.bytes for shard in manifest.shards)
    amount = f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
    return [
        (f"{clips:,}", manifest.media),
        *([(f"{manifest.samples:,}", "triplets")] if manifest.layout == "triplets" else []),
        *([(f"{manifest.frames:,}", "frames")] if manifest.media == "clips" else []),
        (f"{len(manifest.classes):,}", "classes"),
        (amount, f"in {len(manifest.shards):,} shards"),
        (f"{manifest.rejects:,}", f"rejects, {100 * manifest.rejects / max(1, manifest.inputs):.1f} % of the inputs"),
    ]


def _classes(manifest: Manifest, survey: Survey) -> list[tuple[str, int]]:
    """Names and counts, the largest first; samples without a class come in only if there are any."""
    counts = np.zeros(len(manifest.classes) + 1, np.int64)
    known = survey.classes.counts[: len(counts)]
    counts[: len(known)] = known
    named = list(zip(["without class", *manifest.classes], counts.tolist(), strict=True))[0 if counts[0] else 1 :]
    return sorted(named, key=lambda item: (-item[1], item[0]))


def render_page(title: str, manifest: Manifest, survey: Survey, samples: Sequence[dict[str, Any]], seed: int) -> str:
    """The page as HTML; `samples` come from `sample`."""
    clips = manifest.media == "clips"
    subtitle = f"{manifest.media}, split {manifest.split}, layout {manifest.layout}, seed {manifest.seed}"
    origin = ""
    if clips:
        subtitle += f", {manifest.settings['frames']['fps']:g} frames a second"
        origin = f"The triplets are what the reader draws with data.seed {seed} and the paper's ranges."
    if manifest.layout == "triplets":
        origin = "The triplets are those in the shards."
    classes = _classes(manifest, survey)
    distributions = [
        ("Duration", survey.durations, DURATION_UNIT_S, "s"),
        ("Width", survey.widths, 1, "pixels"),
        ("Height", survey.heights, 1, "pixels"),
        ("Size of a JPEG", survey.frame_bytes, SIZE_UNIT_BYTES / 1000, "kB"),
    ]
    return render(
        Path(__file__).with_name("page.html"),
        title=title,
        subtitle=subtitle,
        facts=_facts(manifest, int(survey.classes.counts.sum())),
        origin=origin,
        roles=ROLE_COLORS,
        samples=samples,
        media=manifest.media,
        classes=classes,
        curve=falling(np.array([count for _, count in classes])) if len(classes) > MOST_CLASSES else "",
        ends=_ENDS,
        histograms=[
            histogram(name, tally.counts, scale, unit)
            for name, tally, scale, unit in distributions[0 if clips else 1 :]
            if tally.counts.any()
        ],
        rejects=sorted(survey.rejects.items(), key=lambda item: -item[1].count),
        inputs=max(1, manifest.inputs),
        manifest=json.dumps(
            {**manifest.model_dump(exclude={"shards", "classes"}), "dataset_hash": manifest.dataset_hash}, indent=2
        ),
    )
