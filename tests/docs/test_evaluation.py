"""The benchmark that docs/evaluation.md shows runs as it is printed there."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.pictures import save_mask
from tests.docs.documents import DOCS, fenced, indented
from tests.evaluation.trees import moving_squares
from training.backbone.vit import VitSettings
from training.backbone.weights import random_backbone, save_backbone


def test_the_documented_benchmark_scores_weights_and_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (source,) = fenced(DOCS / "evaluation.md", "python")
    assert len(source.splitlines()) <= 40
    Path("regions.py").write_text(source)
    frames, masks = moving_squares(6)
    for kind in ("frames", "masks"):
        Path("DIR", kind, "squares").mkdir(parents=True)
    for number, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        Image.fromarray(frame).save(f"DIR/frames/squares/{number}.jpg", quality=95)
        save_mask(Path(f"DIR/masks/squares/{number}.png"), mask)
    backbone = random_backbone(VitSettings(width=32, depth=1, heads=2, image_size=64), 0)
    save_backbone(Path("weights/k400-vits16.safetensors"), backbone, {})

    weights, predictions = (
        line.split()[1:] for line in indented(DOCS / "evaluation.md") if line.startswith("python regions.py")
    )
    for words in ([*weights, "--size", "96,160"], predictions):
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit, match="0"):
            runpy.run_path("regions.py", run_name="__main__")
    assert "100.0" in capsys.readouterr().out.splitlines()[-1]
    record = json.loads(Path("results/regions/regions.json").read_text())
    predicted = [np.asarray(Image.open(f"results/regions/predictions/squares/{n}.png")) for n in range(1, 6)]
    iou = [
        np.mean([np.sum((p == one) & (t == one)) / np.sum((p == one) | (t == one)) for one in (1, 2)])
        for p, t in zip(predicted, masks[1:], strict=True)
    ]
    assert record["scores"]["IoU"] == pytest.approx(np.mean(iou))
    assert record["protocol"]["size"] == [96, 160]
    assert Path("results/regions/report.html").is_file()
