from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset import clips_by_frames, read_manifest
from pipeline.preview.survey import (
    DURATION_UNIT_S,
    SIZE_UNIT_BYTES,
    Chosen,
    Survey,
    Tally,
    allot,
    choose,
    survey_dataset,
)
from pipeline.storage import open_storage


def survey_of(dataset: Path) -> Survey:
    return survey_dataset(open_storage(str(dataset)), read_manifest(dataset))


def drawn(dataset: Path, samples: int, seed: int) -> list[Chosen]:
    return choose(open_storage(str(dataset)), read_manifest(dataset), survey_of(dataset), samples, seed)


@given(st.lists(st.lists(st.integers(0, 40), max_size=9), max_size=5))
def test_a_tally_counts_over_several_batches(parts: list[list[int]]) -> None:
    tally = Tally()
    for part in parts:
        tally.add(np.array(part, np.int64))
    assert {n: c for n, c in enumerate(tally.counts) if c} == Counter(n for part in parts for n in part)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.integers(1, 60), st.integers(0, 5))
def test_samples_are_spread_over_the_classes(counts: list[int], samples: int, seed: int) -> None:
    available = np.array(counts)
    quota = allot(available, samples, seed)
    assert quota.sum() == min(samples, available.sum())
    assert (quota <= available).all()
    unfinished = quota[quota < available]
    if len(unfinished):
        assert quota.max() <= unfinished.min() + 1
    assert (quota == allot(available, samples, seed)).all()


def test_the_choice_of_classes_depends_on_the_seed() -> None:
    assert len({tuple(allot(np.full(10, 5), 3, seed)) for seed in range(10)}) > 5


@pytest.mark.parametrize("dataset", ["clip_dataset", "image_dataset"])
def test_counts_match_the_index(dataset: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(dataset)
    survey = survey_of(folder)
    rows = pq.read_table(folder / "index.parquet").to_pylist()

    def counted(tally: Tally) -> dict[int, int]:
        return {number: count for number, count in enumerate(tally.counts) if count}

    assert counted(survey.classes) == Counter(row["label"] + 1 for row in rows)
    assert counted(survey.widths) == Counter(row["width"] for row in rows)
    assert counted(survey.heights) == Counter(row["height"] for row in rows)
    assert counted(survey.durations) == Counter(round(row["duration_s"] / DURATION_UNIT_S) for row in rows)
    assert counted(survey.frame_bytes) == Counter(size // SIZE_UNIT_BYTES for row in rows for size in row["frame_size"])


def test_a_clip_of_triplets_counts_once(clip_dataset: Path, triplet_dataset: Path) -> None:
    of_clips = survey_of(clip_dataset)
    of_triplets = survey_of(triplet_dataset)
    assert of_triplets.classes.counts.tolist() == of_clips.classes.counts.tolist()
    assert of_triplets.durations.counts.tolist() == of_clips.durations.counts.tolist()
    frames = Counter(row["num_frames"] for row in pq.read_table(clip_dataset / "index.parquet").to_pylist())
    for dataset in (clip_dataset, triplet_dataset):
        assert clips_by_frames(open_storage(str(dataset)), read_manifest(dataset)) == frames


def test_rejects_are_counted_by_reason_with_examples(clip_dataset: Path) -> None:
    rejects = survey_of(clip_dataset).rejects
    assert {reason: rejected.count for reason, rejected in rejects.items()} == {"too_short": 1, "not_media": 1}
    ((source, detail),) = rejects["too_short"].examples
    assert source == "riding/short_000001_000002.mp4"
    assert "min_frames is 8" in detail


def test_chosen_samples_have_their_index_rows(image_dataset: Path) -> None:
    table = pq.read_table(image_dataset / "index.parquet")
    chosen = drawn(image_dataset, samples=7, seed=3)
    assert len({sample.row for sample in chosen}) == 7
    assert [sample.rows for sample in chosen] == [table.slice(sample.row, 1).to_pylist() for sample in chosen]
    assert max(Counter(sample.rows[0]["label"] for sample in chosen).values()) == 3
    assert [sample.row for sample in chosen] == [sample.row for sample in drawn(image_dataset, samples=7, seed=3)]


def test_every_sample_can_be_chosen(image_dataset: Path) -> None:
    """One of the four images of each of three classes, for 60 seeds: 15 times each, with a deviation of 3.4."""
    times = Counter(sample.row for seed in range(60) for sample in drawn(image_dataset, samples=3, seed=seed))
    assert set(times) == set(range(12))
    assert min(times.values()) >= 3


def test_all_samples_are_chosen_if_more_are_asked_for(image_dataset: Path) -> None:
    assert [sample.row for sample in drawn(image_dataset, samples=100, seed=0)] == list(range(12))


def test_triplets_of_a_clip_stay_together(triplet_dataset: Path) -> None:
    for sample in drawn(triplet_dataset, samples=4, seed=1):
        first, second = (row["key"] for row in sample.rows)
        assert (first[-3:], second[-3:]) == ("-00", "-01")
        assert first[:-3] == second[:-3]
