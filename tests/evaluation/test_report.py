import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.davis import Davis, DavisCommand
from evaluation.program import run_weights
from evaluation.report import ranked
from evaluation.report_parts import chart, moving, per_cent, sparkline, table
from tests.evaluation.trees import moving_squares, write_sequence
from training.vit import VitSettings
from training.weights import random_backbone, save_backbone

BROWSER = next(
    (path for name in ("chromium", "google-chrome", "chromium-browser") if (path := shutil.which(name))), None
)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--hide-scrollbars", "--window-size=1240,1800", "--virtual-time-budget=2000"),
)


class Page(HTMLParser):
    """Tags that are opened and closed, addresses, and words."""

    VOID = frozenset({"meta", "img", "line", "polyline", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two checkpoints on four sequences, one of which fails; a name needs escaping."""
    root = tmp_path_factory.mktemp("report")
    for number, name in enumerate(("a<b>c", "moving", "more", "broken")):
        frames, masks = moving_squares(5 + number, (1, 3))
        write_sequence(root / "data", name, frames, dict(enumerate(masks)))
    (root / "data" / "JPEGImages" / "480p" / "broken" / "00000.jpg").write_bytes(b"nothing")
    for seed in range(2):
        settings = VitSettings(width=32, depth=1, heads=2, image_size=32, layer_scale=1.0)
        save_backbone(root / f"epoch-{seed}.safetensors", random_backbone(settings, seed), card={})
    command = DavisCommand(
        data=root / "data",
        weights=tuple(root / f"epoch-{seed}.safetensors" for seed in range(2)),
        out=root / "out",
        size=(96, 160),
        report={"attention": True},
    )
    assert run_weights(Davis(command), command) == 1
    return root / "out"


def test_each_checkpoint_has_its_own_result_predictions_and_sheets(out: Path) -> None:
    scores = []
    for seed in range(2):
        folder = out / "checkpoints" / f"epoch-{seed}"
        record = json.loads((folder / "davis.json").read_text())
        scores.append(record["scores"]["J&F-Mean"])
        assert record["weights"]["name"] == f"epoch-{seed}"
        assert {path.name for path in (folder / "predictions").iterdir()} == {"a<b>c", "moving", "more"}
        assert (folder / "sheets" / "a<b>c.png").exists()
    assert scores[0] != scores[1]


def test_the_page_is_well_formed_and_needs_nothing_from_outside(out: Path) -> None:
    page = Page((out / "report.html").read_text())
    assert page.open == []
    assert page.sources
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"https?://|url\(|@import", (out / "report.html").read_text())


def test_the_page_shows_scores_sequences_objects_and_what_failed(out: Path) -> None:
    text = (out / "report.html").read_text()
    words = Page(text).words
    for seed in range(2):
        record = json.loads((out / "checkpoints" / f"epoch-{seed}" / "davis.json").read_text())
        for name in ("a<b>c", "moving"):
            assert per_cent(record["sequences"][name]["scores"]["J&F-Mean"]) in words
            assert per_cent(record["sequences"][name]["details"]["3"]["F-Mean"]) in words
        assert per_cent(record["scores"]["F-Decay"]) in words
    assert {"epoch-0", "epoch-1", "a<b>c", "object 3"} <= set(words)
    assert any("cannot read the frame" in word for word in words)
    assert text.count("data:image/webp") == 2 * 2  # the best and the worst of three sequences, for each checkpoint
    assert text.count("attention of the CLS token</figcaption>") == 2 * 3
    assert text.count("<svg") == 1 + 3


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine's PATH")
def test_chromium_shows_the_page(out: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    artefacts = Path(os.environ.get("TEST_ARTEFACTS", tmp_path))
    artefacts.mkdir(parents=True, exist_ok=True)
    picture = artefacts / "evaluation-report.png"
    command = [BROWSER, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}"]
    subprocess.run([*command, (out / "report.html").as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (1800, 1240, 3)
    assert (pixels[:30] == 255).all()  # a margin
    colours = np.unique(pixels.reshape(-1, 3), axis=0)
    assert len(colours) > 1000  # frames, not only text


def test_sequences_are_ranked_by_the_score() -> None:
    from evaluation.task import SequenceResult

    def result(value: float) -> SequenceResult:
        return SequenceResult("scored", scores={"J&F-Mean": value})

    results = {"c": result(0.2), "a": result(0.9), "b": result(0.2), "x": SequenceResult("failed", "why")}
    task = Davis(DavisCommand(data=Path(), weights=(Path(),), out=Path()))
    assert ranked(task, results) == ["a", "b", "c"]


def test_charts_hold_their_lines_and_leave_out_what_is_unknown() -> None:
    assert chart({}) == chart({"a": [float("nan")]}) == ""
    drawn = chart({"a": [1.0, 1.0], "b": [0.5, float("nan"), 0.1]})
    points = [
        [tuple(map(float, p.split(","))) for p in line.split()] for line in re.findall(r'points="([^"]*)"', drawn)
    ]
    assert [len(line) for line in points] == [2, 2]
    assert points[0][0][1] < points[1][0][1] < points[1][1][1]  # higher scores lie higher
    assert all(0 <= x <= 640 and 0 <= y <= 260 for line in points for x, y in line)
    assert sparkline([[0.1, 0.2], [0.3]]).count("<polyline") == 2


def test_tables_escape_their_heads_and_clips_move() -> None:
    assert "<th>a&lt;b</th>" in table(["a<b"], [["1"]])
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    figure = moving(pictures, "x & y")
    assert "x &amp; y" in figure
    assert figure.startswith('<figure><img src="data:image/webp;base64,')
    assert per_cent(None) == per_cent(float("nan")) == "-"
