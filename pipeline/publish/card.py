"""The card of a dataset: a README.md whose YAML head tells Hugging Face `datasets` the columns, splits and counts."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.cards import marked
from pipeline.dataset import Manifest
from pipeline.record import TRIPLET_NAMES, frame_names

_FACTS = {"key": "string", "source": "string", "class_name": "string", "label": "int64", "width": "int64"} | {
    "height": "int64"
}
"""Fields of every KEY.json, with their types."""
_IMAGE_FACTS = {"encoding": "string"}
_CLIP_FACTS: dict[str, Any] = {"fps": "float64", "times_s": ["float64"], "color": "string", "deinterlaced": "bool"}
_TRIPLET_FACTS: dict[str, Any] = {"clip": "string", "num_frames": "int64", "frames": ["int64"]}
_LARGEST = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")


def _feature(name: str, kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a type, or a list with one
    return {"name": name, "list": kind[0]} if isinstance(kind, list) else {"name": name, "dtype": kind}


def features(manifest: Manifest, most_frames: int) -> list[dict[str, Any]]:
    """The columns of the samples; a clip with fewer frames than `most_frames` has None in the others."""
    names = {"images": ["jpg"], "clips": frame_names(most_frames)}[manifest.media]
    facts = _FACTS | (_IMAGE_FACTS if manifest.media == "images" else _CLIP_FACTS)
    if manifest.layout == "triplets":
        names, facts = list(TRIPLET_NAMES), facts | _TRIPLET_FACTS
    columns = [_feature("__key__", "string"), *(_feature(name, "image") for name in names)]
    if manifest.layout == "frames":
        classes = {str(label): name for label, name in enumerate(manifest.classes)}
        columns.append(_feature("cls", {"class_label": {"names": classes}} if classes else "int64"))
    return [*columns, {"name": "json", "struct": [_feature(name, kind) for name, kind in facts.items()]}]


def dataset_card(
    name: str,
    manifest: Manifest,
    most_frames: int,
    rejects: Mapping[str, int],
    license: str,  # noqa: A002
) -> str:
    """The text of the card.

    Args:
        name: of the dataset, its title.
        manifest: of the dataset.
        most_frames: frames of its longest clip.
        rejects: number of rejects by reason.
        license: an identifier of the Hub, e.g. cc-by-4.0.
    """
    size = sum(shard.bytes for shard in manifest.shards)
    split = re.sub(r"\W+", "_", manifest.split) or "train"
    tars = f"{manifest.name}-*.tar"
    head = {
        "license": license,
        "tags": ["webdataset", "video" if manifest.media == "clips" else "image", "tcore-pipeline"],
        "size_categories": [_LARGEST[min(max(len(str(manifest.samples)) - 3, 0), len(_LARGEST) - 1)]],
        "configs": [{"config_name": "default", "data_files": [{"split": split, "path": tars}]}],
        "dataset_info": {
            "features": features(manifest, most_frames),
            "splits": [{"name": split, "num_bytes": size, "num_examples": manifest.samples}],
            "download_size": size,
            "dataset_size": size,
        },
    }
    kind = "triplets" if manifest.layout == "triplets" else manifest.media
    sections = [
        f"# {name}",
        f"{manifest.samples:,} {kind} of {len(manifest.classes):,} classes, with {manifest.frames:,} frames "
        f"in {len(manifest.shards):,} WebDataset shards of {size / 1e9:.3f} GB, written by tcore-pipeline.",
        f"```python\n{_LOADING.format(split=split)}\n```",
        "## Samples",
        _SAMPLES[kind],
        "## Counts",
        _table(
            {
                "inputs": f"{manifest.inputs:,}",
                "samples": f"{manifest.samples:,}",
                "rejected inputs": f"{manifest.rejects:,}",
                **{f"rejected: `{reason}`": f"{count:,}" for reason, count in sorted(rejects.items())},
            }
        ),
        "`rejects.parquet` names each rejected input and says why it is not in a shard.",
        "## How it was made",
        _table(
            {
                "dataset hash": f"`{manifest.dataset_hash}`",
                "hash of the inputs' names": f"`{manifest.source_fingerprint}`",
                "layout": manifest.layout,
                "seed": manifest.seed,
                **{f"version of {package}": version for package, version in manifest.versions.items()},
            }
        ),
        f"```yaml\n{yaml.safe_dump(manifest.settings, sort_keys=False)}```",
        "The same inputs, settings and versions give the same bytes; `dataset.json` has the SHA-256 of every file.",
        "## License and people",
        f"Published under the license `{license}`. The terms of the sources of the pictures apply beside it. Pictures "
        "of people were mostly taken without their consent to this use: do not use them to identify anyone.\n",
    ]
    return marked(f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n" + "\n\n".join(sections), "pipeline.publish")


_LOADING = """\
from datasets import load_dataset

samples = load_dataset("FOLDER OR USER/NAME", split="{split}")  # with streaming=True nothing is copied"""
_SAMPLES = {
    "clips": "A clip is `00.jpg`, `01.jpg`, ... in the order of time, `cls`, its class, and `json`, with `times_s`, "
    "the time of each frame. Clips differ in length; the columns beyond the end of one are None.",
    "images": "An image is `jpg`, `cls`, its class, and `json`.",
    "triplets": "A triplet is `past.jpg`, `current.jpg` and `future.jpg` of one clip, and `json`, with `times_s`, the "
    "time of each.",
}


def _table(rows: Mapping[str, object]) -> str:
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())
