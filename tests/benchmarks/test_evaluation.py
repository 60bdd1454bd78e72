import json
from pathlib import Path

import pytest

from benchmarks.evaluation import EvaluationBenchmark, main
from pipeline.settings import UserError
from tests.evaluation.trees import moving_squares, write_sequence
from training.backbone.vit import VitSettings
from training.backbone.weights import random_backbone, save_backbone

TINY = VitSettings(width=32, depth=1, heads=2, image_size=32)


def test_result_has_each_way_its_ratio_and_both_precisions(tmp_path: Path) -> None:
    frames, masks = moving_squares(4)
    write_sequence(tmp_path / "data", "one", frames, dict(enumerate(masks)))
    save_backbone(tmp_path / "weights.safetensors", random_backbone(TINY, 0), card={})
    out = tmp_path / "evaluation.json"
    main(
        EvaluationBenchmark(
            out=out,
            size=(96, 160),
            rounds=1,
            batch_size=2,
            backbone=TINY,
            data=tmp_path / "data",
            weights=tmp_path / "weights.safetensors",
        )
    )
    result = json.loads(out.read_text())
    for name in ("features, batched", "propagation", "boundary measure"):
        assert result[name] > 0
        assert result[f"ratio: {name}"] > 0
    assert result["propagation"] * result["ratio: propagation"] == pytest.approx(result["propagation, full matrix"])
    assert 0 < result["scores"]["bf16"]["J&F-Mean"] < 100
    assert set(result["scores"]) == {"fp32", "bf16"}


def test_data_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data and --weights together"):
        main(EvaluationBenchmark(data=tmp_path))
