from pathlib import Path

import pytest

from pipeline.dataset import Manifest, read_manifest
from pipeline.preview.page import MOST_CLASSES, render_page
from pipeline.preview.strips import Draw
from pipeline.preview.survey import RejectedInputs, Survey, survey_dataset
from pipeline.sampling.plan import PlanSettings
from pipeline.storage import open_storage
from tests.pipeline.preview.test_sheet import strip
from tests.pipeline.report.test_page import HOSTILE, Page

DRAWS = [Draw("epoch 0", (2, 4, 6)), Draw("epoch 1", (3, 6, 8))]


@pytest.fixture
def manifest(clip_dataset: Path) -> Manifest:
    return read_manifest(clip_dataset)


@pytest.fixture
def survey(clip_dataset: Path, manifest: Manifest) -> Survey:
    return survey_dataset(open_storage(str(clip_dataset)), manifest)


def test_the_page_shows_samples_counts_and_rejects(manifest: Manifest, survey: Survey) -> None:
    """Whatever the names in the files."""
    named = manifest.model_copy(update={"classes": [HOSTILE, "b"], "split": HOSTILE})
    survey.rejects[HOSTILE] = RejectedInputs(1, [(HOSTILE, HOSTILE)])
    page = Page(
        render_page(HOSTILE, named, survey, [strip(DRAWS, frames=10, name=HOSTILE)], PlanSettings(seed=3), [HOSTILE])
    )
    assert page.text.count(HOSTILE) >= 9
    assert len(page.all("img")) == 10 + 2 * 3
    marks = [
        (mark.get("title"), (mark["style"] or "").partition(";")[0]) for mark in page.all("span", **{"class": "dot"})
    ]
    assert marks[3:] == [
        ("past: frame 2", "left: 25.00%"),
        ("current: frame 4", "left: 45.00%"),
        ("future: frame 6", "left: 65.00%"),
        ("past: frame 3", "left: 35.00%"),
        ("current: frame 6", "left: 65.00%"),
        ("future: frame 8", "left: 85.00%"),
    ]
    for message in (
        *("past, 1.00 s", "current, 2.00 s", "future, 3.00 s", "past, 1.50 s", "10 frames, 5.0 s, 320 x 240"),
        *("6clips", "2classes", "rejects, 25.0 % of the inputs", "too_short", "riding/short_000001_000002.mp4"),
        *("The largest has 4 clips, the median 2, the smallest 2", "data.seed 3"),
    ):
        assert message in page.text
    assert len(page.all("svg")) == 4


def test_only_the_largest_and_smallest_of_many_classes_are_named(manifest: Manifest, survey: Survey) -> None:
    many = manifest.model_copy(update={"classes": [f"class {number:04d}" for number in range(MOST_CLASSES + 900)]})
    page = Page(render_page("k400", many, survey, [], PlanSettings(), []))
    assert len(page.all("svg")) == 5
    assert "The 15 largest" in page.text
    assert len(page.all("span", **{"class": "track"})) == 30


def test_a_dataset_without_rejects(manifest: Manifest, survey: Survey) -> None:
    survey.rejects.clear()
    page = Page(render_page("k400", manifest.model_copy(update={"rejects": 0}), survey, [], PlanSettings(), []))
    assert "every input is in the shards" in page.text
