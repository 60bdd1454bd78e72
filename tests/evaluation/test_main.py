import json
import sys
from pathlib import Path

import pytest

from evaluation.__main__ import main
from tests.evaluation.trees import moving_squares, write_sequence
from training.backbone.vit import VitSettings
from training.backbone.weights import random_backbone, save_backbone


def test_davis_from_weights_to_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, num_frames in (("squares", 4), ("pair", 2)):
        frames, masks = moving_squares(num_frames)
        write_sequence(tmp_path / "data", name, frames, dict(enumerate(masks)))
    weights = tmp_path / "tiny.safetensors"
    save_backbone(weights, random_backbone(VitSettings(width=32, depth=1, heads=2, image_size=32), seed=0), card={})
    options = ["--data", tmp_path / "data", "--weights", weights, "--size", "96,160", "--threads", "1"]
    options += ["--out", tmp_path / "out", "--propagation.n_context", "2"]
    monkeypatch.setattr(sys, "argv", ["evaluation", "davis", *map(str, options)])
    with pytest.raises(SystemExit, match="0"):
        main()
    printed = capsys.readouterr().out
    assert "squares" in printed
    assert "1 of 2 sequences" in printed
    result = json.loads((tmp_path / "out" / "davis.json").read_text())
    assert 0 < result["scores"]["J&F-Mean"] < 1
    assert result["sequences"]["squares"]["frames_scored"] == 2
    assert result["sequences"]["pair"]["status"] == "unscored"
    assert result["protocol"]["propagation"]["n_context"] == 2
    assert len(list((tmp_path / "out" / "predictions" / "squares").iterdir())) == 4
    assert result["weights"]["random_init_seed"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no benchmark given"),
        (
            ("davies",),
            "unknown benchmark davies; allowed are {davis,vip,jhmdb,tapvid}, score {davis,vip,jhmdb,tapvid}, knn, "
            "linear and look",
        ),
        (("score",), "no benchmark given"),
        (("score", "davis", "--data", ".", "--predictions", "gone"), "ImageSets/2017/val.txt"),
        (("vip", "--data", ".", "--weights", "w", "--out", "x"), "lists/val_videos.txt"),
        (("jhmdb", "--data", ".", "--weights", "w", "--out", "x"), "no clips of the split 1"),
        (("davis", "--data", "nowhere", "--weights", "none", "--out", "x"), "--data nowhere is not a folder"),
        (("davis", "--data", ".", "--weights", "w", "--out", "x", "--size", "1,2,3"), "must be a height and a width"),
    ],
)
def test_bad_command_lines_end_in_one_sentence(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluation", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_help_names_the_benchmarks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluation", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    shown = capsys.readouterr().out
    assert "score {davis,vip,jhmdb,tapvid} --data DIR --predictions DIR" in shown
    assert "{knn,linear} --shards DIR --shards_test DIR" in shown
    assert "look VIDEO [VIDEO...] --weights" in shown
