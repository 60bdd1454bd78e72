from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pipeline.dataset import Manifest, read_manifest
from pipeline.preview.page import MOST_CLASSES, render, sample
from pipeline.preview.strips import Draw, Strip
from pipeline.preview.survey import RejectedInputs, Survey, survey_dataset
from pipeline.storage import open_storage

HOSTILE = "\"'><script>alert(1)</script>&<img src=http://127.0.0.1/x>"


class Parsed(HTMLParser):
    """What a browser would see: tags with attributes, and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str, **attributes: str) -> int:
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.tags)


def strip(name: str = "riding") -> Strip:
    pictures = {frame: Image.new("RGB", (64, 48), (frame * 20, 0, 0)) for frame in range(10)}
    return Strip(
        key=name,
        class_name=name,
        source=f"{name}/file.mp4",
        size=(64, 48),
        num_frames=10,
        duration_s=5.0,
        times_s={frame: frame / 2 for frame in range(10)},
        pictures=pictures,
        even=list(range(10)),
        draws=[Draw("epoch 0", (2, 4, 6)), Draw("epoch 1", (3, 6, 8))],
    )


@pytest.fixture
def manifest(clip_dataset: Path) -> Manifest:
    return read_manifest(clip_dataset)


@pytest.fixture
def survey(clip_dataset: Path, manifest: Manifest) -> Survey:
    return survey_dataset(open_storage(str(clip_dataset)), manifest)


def test_a_sample_shows_its_frames_and_marks_its_draws() -> None:
    shown = Parsed(sample(strip()))
    assert shown.count("img") == 10 + 2 * 3
    lanes = [dict(attributes) for tag, attributes in shown.tags if tag == "i"]
    assert [(lane["class"], lane["style"]) for lane in lanes] == [
        ("past", "left:25.00%"),
        ("current", "left:45.00%"),
        ("future", "left:65.00%"),
        ("past", "left:35.00%"),
        ("current", "left:65.00%"),
        ("future", "left:85.00%"),
    ]
    for said in ("past, 1.00 s", "current, 2.00 s", "future, 3.00 s", "past, 1.50 s", "10 frames, 5.0 s, 64 x 48"):
        assert said in shown.text


def test_the_page_tells_counts_and_rejects(manifest: Manifest, survey: Survey) -> None:
    page = Parsed(render("k400", manifest, survey, [sample(strip())], seed=3))
    for said in ("k400", "6clips", "2classes", "rejects, 25.0 % of the inputs", "too_short", "not_media"):
        assert said in page.text
    assert "riding/short_000001_000002.mp4" in page.text
    assert "The largest has 4 clips, the median 2, the smallest 2" in page.text
    assert "data.seed 3" in page.text
    assert page.count("svg") == 4


def test_the_page_needs_nothing_from_outside(manifest: Manifest, survey: Survey) -> None:
    html = render("k400", manifest, survey, [sample(strip())], seed=0)
    assert all(
        (attrs.get("src") or "data:").startswith("data:image/jpeg;base64,")
        for tag, attrs in Parsed(html).tags
        if tag == "img"
    )
    for outside in ("http:", "https:", "url(", "<link", "<script", "@import"):
        assert outside not in html
    assert "prefers-color-scheme: dark" in html


def test_text_from_files_is_escaped(manifest: Manifest, survey: Survey) -> None:
    hostile = manifest.model_copy(update={"classes": [HOSTILE, "b"], "split": HOSTILE})
    survey.rejects[HOSTILE] = RejectedInputs(1, [(HOSTILE, HOSTILE)])
    page = Parsed(render(HOSTILE, hostile, survey, [sample(strip(HOSTILE))], seed=0))
    assert page.count("script") == 0
    assert page.count("img") == 16
    assert page.text.count(HOSTILE) >= 8


def test_many_classes_are_shown_by_their_ends(manifest: Manifest, survey: Survey) -> None:
    many = manifest.model_copy(update={"classes": [f"class {number:04d}" for number in range(MOST_CLASSES + 900)]})
    page = Parsed(render("k400", many, survey, [], seed=0))
    assert page.count("polygon") == 1
    assert "The 15 largest" in page.text
    assert page.count("span", **{"class": "track"}) == 30


def test_a_dataset_without_rejects(manifest: Manifest, survey: Survey) -> None:
    survey.rejects.clear()
    page = Parsed(render("k400", manifest.model_copy(update={"rejects": 0}), survey, [], seed=0))
    assert "every input is in the shards" in page.text
