"""The page: samples with their draws, classes, distributions, rejects; one file without outside parts."""

import base64
import io
import json
from collections.abc import Iterable
from html import escape

import numpy as np
from PIL import Image

from pipeline.dataset import Manifest
from pipeline.preview.charts import bars, histogram, rank_curve
from pipeline.preview.strips import ROLES, Draw, Strip
from pipeline.preview.style import STYLE
from pipeline.preview.survey import DURATION_UNIT_S, SIZE_UNIT_BYTES, Survey

_STRIP_SIZE = (160, 120)
_DRAW_SIZE = (360, 270)
MOST_CLASSES = 45
"""With more classes than this, only the largest and the smallest are named."""
_ENDS = 15


def _image(picture: Image.Image, size: tuple[int, int], alternative: str) -> str:
    small = picture.copy()
    small.thumbnail(size)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{escape(alternative)}" loading="lazy">'


def _lane(draw: Draw, num_frames: int) -> str:
    places = [100 * (frame + 0.5) / num_frames for frame in draw.frames]
    dots = "".join(
        f'<i class="{role}" style="left:{place:.2f}%" title="{role}: frame {frame}"></i>'
        for role, place, frame in zip(ROLES, places, draw.frames, strict=True)
    )
    line = f'<b style="left:{places[0]:.2f}%;width:{places[2] - places[0]:.2f}%"></b>'
    return f'<div class="lane"><span>{escape(draw.name)}</span>{line}{dots}</div>'


def _triplet(strip: Strip, draw: Draw) -> str:
    figures = "".join(
        f'<figure class="{role}">{_image(strip.pictures[frame], _DRAW_SIZE, f"{role} frame")}'
        f"<figcaption>{role}, {strip.times_s[frame]:.2f} s</figcaption></figure>"
        for role, frame in zip(ROLES, draw.frames, strict=True)
    )
    return f"<div><span>{escape(draw.name)}</span>{figures}</div>"


def sample(strip: Strip) -> str:
    """One sample: its frames in order of time, and below them which frames the draws take."""
    width, height = strip.size
    kind = escape(strip.class_name or "without class")
    if not strip.draws:
        caption = f"{kind}<br>{escape(strip.key)}, {width} x {height}"
        return f"<figure>{_image(strip.pictures[0], _DRAW_SIZE, strip.key)}<figcaption>{caption}</figcaption></figure>"
    frames = "".join(_image(strip.pictures[f], _STRIP_SIZE, f"frame {f}") for f in strip.even)
    frames = f'<div class="strip">{frames}</div>' if frames else ""
    lanes = "".join(_lane(draw, strip.num_frames) for draw in strip.draws)
    triplets = "".join(_triplet(strip, draw) for draw in strip.draws)
    facts = f"{strip.num_frames} frames, {strip.duration_s:.1f} s, {width} x {height}, from {strip.source}"
    return (
        f'<section class="sample"><h3>{kind}</h3><div class="meta">{escape(strip.key)}: {escape(facts)}</div>'
        f'{frames}{lanes}<div class="draws">{triplets}</div></section>'
    )


def _cards(manifest: Manifest, clips: int) -> str:
    size = sum(shard.bytes for shard in manifest.shards)
    amount = f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
    cards = [
        (f"{clips:,}", manifest.media),
        *([(f"{manifest.samples:,}", "triplets")] if manifest.layout == "triplets" else []),
        *([(f"{manifest.frames:,}", "frames")] if manifest.media == "clips" else []),
        (f"{len(manifest.classes):,}", "classes"),
        (amount, f"in {len(manifest.shards):,} shards"),
        (f"{manifest.rejects:,}", f"rejects, {100 * manifest.rejects / max(1, manifest.inputs):.1f} % of the inputs"),
    ]
    return '<div class="cards">' + "".join(f"<div><b>{b}</b><span>{s}</span></div>" for b, s in cards) + "</div>"


def _samples(manifest: Manifest, samples: list[str], seed: int) -> str:
    if manifest.media == "images":
        intro = "<p>Drawn at random, spread over the classes.</p>"
        return f'<h2>Samples</h2>{intro}<div class="tiles">{"".join(samples)}</div>'
    drawn = (
        "The triplets are those in the shards."
        if manifest.layout == "triplets"
        else f"The triplets are what the reader draws with <code>data.seed</code> {seed} and the paper's ranges."
    )
    legend = "".join(f'<span><span class="dot {role}"></span>{role}</span>' for role in ROLES)
    intro = f"<p>Drawn at random, spread over the classes. {drawn}</p>"
    return f'<h2>Samples</h2>{intro}<div class="legend">{legend}</div>{"".join(samples)}'


def _classes(manifest: Manifest, survey: Survey) -> str:
    counts = np.zeros(len(manifest.classes) + 1, np.int64)
    known = survey.classes.counts[: len(counts)]
    counts[: len(known)] = known
    named = list(zip(["without class", *manifest.classes], counts.tolist(), strict=True))[0 if counts[0] else 1 :]
    named.sort(key=lambda item: (-item[1], item[0]))
    if not named:
        return ""
    most = named[0][1]
    middle = named[len(named) // 2][1]
    note = f"<p>The largest has {most:,} {manifest.media}, the median {middle:,}, the smallest {named[-1][1]:,}.</p>"
    if len(named) <= MOST_CLASSES:
        return f'<h2>Classes</h2>{note}<div class="bars">{bars(named, most)}</div>'
    curve = rank_curve(np.array([count for _, count in named]))
    ends = "".join(
        f'<h3 class="end">The {_ENDS} {which}</h3><div class="bars">{bars(some, most)}</div>'
        for which, some in (("largest", named[:_ENDS]), ("smallest", named[-_ENDS:]))
    )
    return f"<h2>Classes</h2>{note}{curve}{ends}"


def _distributions(manifest: Manifest, survey: Survey) -> str:
    charts = [
        histogram("Width", survey.widths.counts, 1, "pixels"),
        histogram("Height", survey.heights.counts, 1, "pixels"),
        histogram("Size of a JPEG", survey.frame_bytes.counts, SIZE_UNIT_BYTES / 1000, "kB"),
    ]
    if manifest.media == "clips":
        charts.insert(0, histogram("Duration", survey.durations.counts, DURATION_UNIT_S, "s"))
    heading = "Durations and sizes" if manifest.media == "clips" else "Sizes"
    return f'<h2>{heading}</h2><div class="charts">{"".join(charts)}</div>'


def _rejects(manifest: Manifest, survey: Survey) -> str:
    if not survey.rejects:
        return "<h2>Rejects</h2><p>None: every input is in the shards.</p>"
    rows = []
    for reason, rejected in sorted(survey.rejects.items(), key=lambda item: -item[1].count):
        examples = "".join(
            f"<div>{escape(source)}<small>{escape(detail)}</small></div>" for source, detail in rejected.examples
        )
        share = 100 * rejected.count / max(1, manifest.inputs)
        rows.append(
            f'<tr><td>{escape(reason)}</td><td class="number">{rejected.count:,}</td>'
            f'<td class="number">{share:.2f} %</td><td>{examples}</td></tr>'
        )
    head = (
        '<tr><th>reason</th><th class="number">inputs</th><th class="number">of all</th><th>the first of them</th></tr>'
    )
    return f'<h2>Rejects</h2><table class="rejects">{head}{"".join(rows)}</table>'


def _origin(manifest: Manifest) -> str:
    fields = manifest.model_dump(exclude={"shards", "classes"})
    text = json.dumps({**fields, "dataset_hash": manifest.dataset_hash}, indent=2)
    return f"<details><summary>What the shards were made with</summary><pre>{escape(text)}</pre></details>"


def render(title: str, manifest: Manifest, survey: Survey, samples: Iterable[str], seed: int) -> str:
    """The page as HTML; `samples` come from `sample`."""
    subtitle = f"{manifest.media}, split {manifest.split}, layout {manifest.layout}, seed {manifest.seed}"
    if manifest.media == "clips":
        subtitle += f", {manifest.settings['frames']['fps']:g} frames a second"
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(subtitle)}</p>",
        _cards(manifest, int(survey.classes.counts.sum())),
        _samples(manifest, list(samples), seed),
        _classes(manifest, survey),
        _distributions(manifest, survey),
        _rejects(manifest, survey),
        _origin(manifest),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
