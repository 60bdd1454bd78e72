import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.benchmark import SequenceResult
from evaluation.command import evaluation_command
from evaluation.davis import DAVIS
from evaluation.program import run_weights
from evaluation.report import ranked
from pipeline.report.page import percent
from tests.evaluation.trees import moving_squares, write_sequence
from tests.pipeline.report.test_page import Page
from training.backbone.vit import VitSettings
from training.backbone.weights import random_backbone, save_backbone


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
    weights = tuple(root / f"epoch-{seed}.safetensors" for seed in range(2))
    options: dict[str, Any] = {"data": root / "data", "size": (96, 160), "report": {"attention": True}}
    assert run_weights(DAVIS, evaluation_command(DAVIS)(weights=weights, out=root / "out", **options)) == 1
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


def test_the_page_shows_scores_sequences_objects_and_what_failed(out: Path) -> None:
    page = Page((out / "report.html").read_text())
    for seed in range(2):
        record = json.loads((out / "checkpoints" / f"epoch-{seed}" / "davis.json").read_text())
        for name in ("a<b>c", "moving"):
            assert percent(record["sequences"][name]["scores"]["J&F-Mean"]) in page.text
            assert percent(record["sequences"][name]["details"]["3"]["F-Mean"]) in page.text
        assert percent(record["scores"]["F-Decay"]) in page.text
    for message in ("epoch-0", "epoch-1", "a<b>c", "object 3", "cannot read the frame"):
        assert message in page.text
    kinds = [(picture["src"] or "")[:15] for picture in page.all("img")]
    assert kinds.count("data:image/webp") == 2 * 2  # the best and the worst of three sequences, for each checkpoint
    assert sum("attention of the CLS token" in (picture["alt"] or "") for picture in page.all("img")) == 2 * 3
    assert len(page.all("svg")) == 1 + 3


def test_sequences_are_ranked_by_the_score() -> None:
    def result(value: float) -> SequenceResult:
        return SequenceResult("scored", scores={"J&F-Mean": value})

    results = {"c": result(0.2), "a": result(0.9), "b": result(0.2), "x": SequenceResult("failed", "why")}
    assert ranked("J&F-Mean", results) == ["a", "b", "c"]
