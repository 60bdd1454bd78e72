"""The card against the samples that it describes, and against the library that reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
import webdataset
import yaml
from huggingface_hub import DatasetCard

from pipeline.dataset import read_manifest
from pipeline.publish.card import dataset_card, features
from tests.media import decode

TYPES = {"string": str, "int64": int, "float64": float, "bool": bool, "image": bytes}


def first_samples(folder: Path) -> list[dict[str, Any]]:
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    return list(webdataset.WebDataset(tars, shardshuffle=False))


def most_frames(samples: list[dict[str, Any]]) -> int:
    return max(sum(name.endswith("jpg") for name in sample) for sample in samples)


def head_of(card: str) -> dict[str, Any]:
    """The YAML head as the Hub's library reads it."""
    head: dict[str, Any] = vars(DatasetCard(card).data)
    return head


def names(columns: list[dict[str, Any]]) -> list[str]:
    return [column["name"] for column in columns]


@pytest.mark.parametrize("dataset", ["clip_dataset", "image_dataset", "triplet_dataset"])
def test_columns_are_those_of_the_samples(dataset: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(dataset)
    samples = first_samples(folder)
    columns = features(read_manifest(folder), most_frames(samples))
    present = {name for sample in samples for name in sample if name not in ("__url__", "__local_path__")}
    assert set(names(columns)) == present
    facts = {column["name"]: column for column in columns[-1]["struct"]}
    for sample in samples:
        for name, value in json.loads(sample["json"]).items():
            member, kind = (value[0], facts[name]["list"]) if isinstance(value, list) else (value, facts[name]["dtype"])
            assert isinstance(member, TYPES[kind]), f"{name} is a {kind}"


def test_the_head_is_read_by_the_hubs_library(clip_dataset: Path) -> None:
    manifest = read_manifest(clip_dataset)
    text = dataset_card("riders", manifest, 12, {"too_short": 1, "not_media": 1}, "cc-by-4.0")
    head = head_of(text)
    assert head["license"] == "cc-by-4.0"
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "shard-*.tar"}]
    [split] = head["dataset_info"]["splits"]
    assert split["num_examples"] == 6
    assert split["num_bytes"] == sum(path.stat().st_size for path in clip_dataset.glob("*.tar"))
    assert {"class_label": {"names": {"0": "riding", "1": "waving hands"}}} in [
        column.get("dtype") for column in head["dataset_info"]["features"]
    ]
    for row in ("| inputs | 8 |", "| rejected: `too_short` | 1 |", f"| dataset hash | `{manifest.dataset_hash}` |"):
        assert row in text
    settings = text.partition("```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(settings) == manifest.settings


@pytest.mark.parametrize(
    ("samples", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (240_000, "100K<n<1M"), (1_300_000, "1M<n<10M")]
)
def test_the_size_category_is_the_hubs(samples: int, category: str, clip_dataset: Path) -> None:
    manifest = read_manifest(clip_dataset).model_copy(update={"samples": samples, "split": "val 2"})
    head = head_of(dataset_card("n", manifest, 3, {}, "mit"))
    assert head["size_categories"] == [category]
    assert head["dataset_info"]["splits"][0]["name"] == "val_2"


@pytest.mark.parametrize("dataset", ["clip_dataset", "image_dataset", "triplet_dataset"])
@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_loads_the_folder(
    dataset: str, streaming: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))
    from datasets import load_dataset

    source = request.getfixturevalue(dataset)
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    samples = first_samples(source)
    (folder / "README.md").write_text(dataset_card("n", read_manifest(source), most_frames(samples), {}, "mit"))
    loaded = list(load_dataset(str(folder), split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")))
    assert len(loaded) == len(samples)
    for ours, theirs in zip(loaded, samples, strict=True):
        facts = json.loads(theirs["json"])
        assert ours["__key__"] == theirs["__key__"]
        assert {name: ours["json"][name] for name in facts} == facts
        assert "cls" not in theirs or ours["cls"] == facts["label"]
        for name in (name for name in ours if name.endswith("jpg")):
            if name not in theirs:
                assert ours[name] is None
            else:
                assert (decode(theirs[name]) == ours[name].convert("RGB")).all()
