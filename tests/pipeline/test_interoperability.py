"""Readers of other projects get from the shards what the index lists.

The programs in docs/format.md are run unchanged.
"""

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from pipeline.dataset import ShardDataset
from pipeline.shards.frames import extract_frames
from pipeline.spec import FrameSettings
from tests.media import decode

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
BLOCK = re.compile(r"^## (.+?)$.*?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = dict(BLOCK.findall(DOCUMENT.read_text()))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep Hugging Face's packages offline, with their cache in the test's folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))


def run_documented(program: str, dataset: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a program of the document with `dataset` as DATASET; returns its variables."""
    (folder / "DATASET").symlink_to(dataset)
    monkeypatch.chdir(folder)
    variables: dict[str, Any] = {"__name__": "documented"}
    exec(compile(PROGRAMS[program], str(DOCUMENT), "exec"), variables)
    return variables


def contents(dataset: Path) -> dict[str, tuple[int, list[bytes]]]:
    """Label and JPEGs of each sample by key, from the index."""
    opened = ShardDataset(dataset)
    return {
        key: (int(opened.label[row]), [bytes(opened.frame(row, frame)) for frame in range(opened.num_frames[row])])
        for row, key in enumerate(opened.keys.to_pylist())
    }


def pixels(pictures: list[Any]) -> list[np.ndarray]:
    return [np.asarray(picture.convert("RGB")) for picture in pictures]


def same(pictures: list[Any], jpegs: list[bytes]) -> bool:
    return len(pictures) == len(jpegs) and all(
        np.array_equal(ours, theirs) for ours, theirs in zip(map(decode, jpegs), pixels(pictures), strict=True)
    )


def test_the_document_shows_four_short_programs() -> None:
    assert list(PROGRAMS) == ["webdataset", "Hugging Face datasets", "DALI", "PyTorch alone"]
    assert all(len(program.splitlines()) < 25 for program in PROGRAMS.values())


def test_a_sample_is_a_clip(clip_dataset: Path, clip_tree: Path) -> None:
    """The bytes that webdataset reads are those that were extracted from the clip."""
    tars = sorted(str(path) for path in clip_dataset.glob("*.tar"))
    samples = {sample["__key__"]: sample for sample in webdataset.WebDataset(tars, shardshuffle=False)}
    assert len(samples) == 6
    sample = samples["-abcdefghij_000001_000007"]
    frames = extract_frames(clip_tree / "riding" / "-abcdefghij_000001_000007.mp4", FrameSettings())
    assert [sample[f"{i:02d}.jpg"] for i in range(12)] == frames.jpegs
    assert sample["cls"] == b"0"
    facts = json.loads(sample["json"])
    assert facts["class_name"] == "riding"
    assert facts["times_s"] == frames.times_s
    assert "waving%20hands%2Fwith%2Edot%20and%20space%2Emp4" in samples


def test_webdataset_reads_clips(
    clip_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run_documented("webdataset", clip_dataset, tmp_path, monkeypatch)
    printed = capsys.readouterr().out.splitlines()
    expected = contents(clip_dataset)
    for line, clip, (key, (label, jpegs)) in zip(printed, shown["clips"], expected.items(), strict=True):
        assert (clip["__key__"], clip["cls"]) == (key, label)
        assert same(shown["frames"](clip), jpegs)
        assert line == f"{key} {label} {clip['json']['class_name']} {len(jpegs)}"


@pytest.mark.parametrize(
    ("dataset", "names"), [("image_dataset", ["jpg"]), ("triplet_dataset", ["past.jpg", "current.jpg", "future.jpg"])]
)
def test_webdataset_and_hugging_face_read_the_other_layouts(
    dataset: str, names: list[str], request: pytest.FixtureRequest
) -> None:
    from datasets import load_dataset

    folder = request.getfixturevalue(dataset)
    expected = contents(folder)
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    by_webdataset = webdataset.WebDataset(tars, shardshuffle=False).decode("pil")
    by_hugging_face = load_dataset("webdataset", data_files=f"{folder}/*.tar", split="train", streaming=True)
    for samples in (by_webdataset, by_hugging_face):
        read = {sample["__key__"]: sample for sample in samples}
        assert list(read) == list(expected)
        for key, (label, jpegs) in expected.items():
            assert same([read[key][name] for name in names], jpegs)
            assert read[key]["json"]["label"] == label


def test_triplets_are_frames_of_their_clips(clip_dataset: Path, triplet_dataset: Path) -> None:
    clips, triplets = contents(clip_dataset), contents(triplet_dataset)
    tars = sorted(str(path) for path in triplet_dataset.glob("*.tar"))
    facts = {s["__key__"]: s["json"] for s in webdataset.WebDataset(tars, shardshuffle=False).decode("pil")}
    assert {key[:-3] for key in triplets} == set(clips)
    assert len(triplets) == 2 * len(clips)
    for key, (label, jpegs) in triplets.items():
        past, current, future = facts[key]["frames"]
        assert past < current < future
        assert (label, jpegs) == (clips[key[:-3]][0], [clips[key[:-3]][1][frame] for frame in (past, current, future)])


def test_hugging_face_reads_clips(clip_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run_documented("Hugging Face datasets", clip_dataset, tmp_path, monkeypatch)
    expected = contents(clip_dataset)
    assert len({len(jpegs) for _, jpegs in expected.values()}) > 1, "clips of one length show nothing"
    for clip, (key, (label, jpegs)) in zip(shown["clips"], expected.items(), strict=True):
        assert (clip["__key__"], clip["cls"]) == (key, label)
        assert same([clip[name] for name in shown["names"] if clip[name] is not None], jpegs)


def test_dali_reads_images_with_the_written_index(
    image_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run_documented("DALI", image_dataset, tmp_path, monkeypatch)
    expected = list(contents(image_dataset).values())
    labels = [label for label, _ in expected]
    assert capsys.readouterr().out.splitlines()[-1].endswith(str(labels[:4]))
    pictures = [shown["pictures"].at(index) for index in range(4)]
    for picture, (_, (jpeg,)) in zip(pictures, expected, strict=False):
        resized = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        assert np.abs(picture.astype(int) - np.asarray(resized)).mean() < 3
    read = labels[:4]
    for _ in range(2):
        _, batch = shown["pipeline"].run()
        read += [int(bytes(batch.at(index))) for index in range(4)]
    assert read == labels


@pytest.mark.parametrize(
    ("dataset", "names"), [("clip_dataset", ["00.jpg"]), ("triplet_dataset", ["past.jpg", "current.jpg", "future.jpg"])]
)
def test_dali_reads_the_bytes_of_the_other_layouts(
    dataset: str, names: list[str], request: pytest.FixtureRequest
) -> None:
    from nvidia.dali import fn, pipeline_def

    folder = request.getfixturevalue(dataset)
    expected = contents(folder)
    tars = sorted(str(path) for path in folder.glob("*.tar"))

    @pipeline_def(batch_size=len(expected), num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        jpegs_and_facts: Any = fn.readers.webdataset(
            paths=tars,
            index_paths=[tar.replace(".tar", ".idx") for tar in tars],
            ext=[*names, "json"],
            missing_component_behavior="error",
        )
        return tuple(jpegs_and_facts)

    outputs = graph().run()
    for index, (key, (_, jpegs)) in enumerate(expected.items()):
        *frames, facts = (bytes(output.at(index)) for output in outputs)
        assert frames == jpegs[: len(names)]
        assert json.loads(facts)["key"] == key


def test_torch_reads_clips(clip_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run_documented("PyTorch alone", clip_dataset, tmp_path, monkeypatch)
    clips = shown["Clips"](os.fspath(clip_dataset))
    expected = contents(clip_dataset)
    assert len(clips) == len(expected)
    for number, (label, jpegs) in enumerate(expected.values()):
        frames, result = clips[number]
        assert result == label
        assert np.array_equal(frames.numpy(), np.stack([decode(jpeg) for jpeg in jpegs]))


def test_the_index_has_a_row_group_for_each_shard(image_dataset: Path) -> None:
    file = pq.ParquetFile(image_dataset / "index.parquet")
    groups = [file.read_row_group(group)["shard"].unique().to_pylist() for group in range(file.num_row_groups)]
    assert groups == [[path.name] for path in sorted(image_dataset.glob("*.tar"))]
