import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from evaluation.davis import DAVIS
from evaluation.davis_during_training import DavisDuringTraining
from evaluation.during_training import BEST, LOG, EvalSettings, EvaluationDuringTraining
from indexing.extract import ShardFeatures
from pipeline.settings import UserError
from pipeline.storage import open_storage
from tests.evaluation.probes import brute_force
from tests.evaluation.trees import evaluate, moving_squares, write_sequence
from tests.indexing.made import write_colors
from tests.training.forks import run_ranks, train
from tests.training.test_pretrain import small
from training.backbone.vit import VitSettings
from training.backbone.weights import backbone_sha256, load_backbone, random_backbone, read_card, save_backbone
from training.export import export

CPU = torch.device("cpu")
TINY = VitSettings(width=32, depth=1, heads=2, image_size=32, layer_scale=1.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three sequences, so that two ranks have unequal shares."""
    for number in range(3):
        frames, masks = moving_squares(3 + number)
        write_sequence(tmp_path / "data", f"squares-{number}", frames, dict(enumerate(masks)))
    return tmp_path / "data"


def settings(data: Path | None, **options: Any) -> EvalSettings:
    return EvalSettings(**{"davis": data, "size": (96, 160), "every": 2, **options})


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A training set and a test set for k-NN classification, so that two ranks have unequal shares."""
    root = tmp_path_factory.mktemp("colors")
    train = write_colors(root / "train", 25, "train{}")
    return {"knn": train, "knn_test": write_colors(root / "test", 5, "test{}")}


def davis(evaluation: EvaluationDuringTraining) -> DavisDuringTraining:
    (scorer,) = evaluation.scorers
    assert isinstance(scorer, DavisDuringTraining)
    return scorer


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / LOG).read_text().splitlines()]


def test_scores_are_those_of_the_program_and_the_model_stays_as_it_was(data: Path, tmp_path: Path) -> None:
    backbone = random_backbone(TINY, 0).train()
    evaluator = EvaluationDuringTraining(settings(data), tmp_path / "run", 16, CPU)
    torch.manual_seed(3)
    expected_draw = torch.rand(1)
    torch.manual_seed(3)
    scores = evaluator.evaluate(backbone, 10)
    assert torch.rand(1) == expected_draw
    assert backbone.training
    save_backbone(tmp_path / "w.safetensors", backbone, card={})
    result = evaluate(DAVIS, data, weights=tmp_path / "w.safetensors", size=(96, 160))
    assert scores == pytest.approx({f"davis/{name}": value for name, value in result["scores"].items()})
    assert logged(tmp_path / "run")[0]["step"] == 10


def test_the_best_weights_stay_also_over_a_restart(data: Path, tmp_path: Path) -> None:
    backbones = [random_backbone(TINY, seed) for seed in range(3)]
    scores = [
        EvaluationDuringTraining(settings(data), tmp_path / f"alone-{n}", 16, CPU).evaluate(backbone, 1)[
            "davis/J&F-Mean"
        ]
        for n, backbone in enumerate(backbones)
    ]
    order = sorted(range(3), key=lambda number: scores[number])
    assert len(set(scores)) == 3
    for step, number in enumerate((order[1], order[2], order[0]), start=1):  # a new object each time: a restart
        EvaluationDuringTraining(settings(data), tmp_path / "run", 16, CPU).evaluate(backbones[number], step)
    kept = tmp_path / "run" / BEST
    assert backbone_sha256(load_backbone(kept)) == backbone_sha256(backbones[order[2]])
    assert read_card(kept)["steps"] == 2
    assert [line["step"] for line in logged(tmp_path / "run")] == [1, 2, 3]


def test_a_resumed_run_writes_its_lines_anew(data: Path, tmp_path: Path) -> None:
    evaluator = EvaluationDuringTraining(settings(data), tmp_path, 16, CPU)
    for step in (2, 4, 6, 4):
        evaluator.evaluate(random_backbone(TINY, 0), step)
    assert [line["step"] for line in logged(tmp_path)] == [2, 4]


def test_broken_weights_are_logged_and_never_the_best(data: Path, tmp_path: Path) -> None:
    backbone = random_backbone(TINY, 0)
    torch.nn.init.constant_(backbone.norm.weight, torch.nan)
    evaluator = EvaluationDuringTraining(settings(data), tmp_path, 16, CPU)
    assert evaluator.evaluate(backbone, 5) == {}
    assert not (tmp_path / BEST).exists()
    (line,) = logged(tmp_path)
    assert line["scores"] is None
    assert "NaN" in line["failed"]["squares-0"]


def test_faults_are_found_before_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--eval\.size"):
        EvaluationDuringTraining(settings(data, size=(96, 161)), tmp_path, 16, CPU)
    with pytest.raises(UserError, match=r"--eval\.davis .*nowhere is not a folder"):
        EvaluationDuringTraining(settings(data / "nowhere"), tmp_path, 16, CPU)
    (data / "Annotations" / "480p" / "squares-1" / "00000.png").unlink()
    with pytest.raises(UserError, match="squares-1: the first frame"):
        EvaluationDuringTraining(settings(data), tmp_path, 16, CPU)


def test_notes_are_printed_before_training_and_logged(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("JPEGImages", "Annotations"):
        next((data / folder / "480p" / "squares-2").glob("00002.*")).unlink()
    evaluator = EvaluationDuringTraining(settings(data, sequences=("squares-2",)), tmp_path, 16, CPU)
    note = "gaps in the frame numbers: 1 (first between 00001 and 00003); taken as if no time had passed there"
    assert capsys.readouterr().out == f"--eval.davis {data}: squares-2: {note}\n"
    evaluator.evaluate(random_backbone(TINY, 0), 1)
    assert logged(tmp_path)[0]["notes"] == {"squares-2": [note]}


def test_evaluations_are_due_at_their_steps_and_at_the_end(data: Path, tmp_path: Path) -> None:
    evaluator = EvaluationDuringTraining(settings(data, every=4), tmp_path, 16, CPU)
    assert [step for step in range(1, 11) if evaluator.is_due(step, 10)] == [4, 8, 10]


def test_every_sequence_belongs_to_one_rank(data: Path, tmp_path: Path) -> None:
    shares = [
        list(davis(EvaluationDuringTraining(settings(data), tmp_path, 16, CPU, rank, 2)).share) for rank in range(2)
    ]
    assert shares == [["squares-0", "squares-2"], ["squares-1"]]


def test_neighbours_during_training_are_those_of_brute_force(colors: dict[str, Path], tmp_path: Path) -> None:
    backbone = random_backbone(TINY, 0).train()
    evaluator = EvaluationDuringTraining(settings(None, **colors), tmp_path / "run", 16, CPU)
    torch.manual_seed(3)
    expected_draw = torch.rand(1)
    torch.manual_seed(3)
    scores = evaluator.evaluate(backbone, 10)
    assert torch.rand(1) == expected_draw
    assert backbone.training
    save_backbone(tmp_path / "w.safetensors", backbone, card={})
    storage, features = open_storage(str(tmp_path)), []
    for folder, rows in ((colors["knn"], 25), (colors["knn_test"], 5)):
        worker = ShardFeatures(folder, tmp_path / "w.safetensors", storage, batch_size=64, threads=1)
        features.append(worker.features(np.arange(rows)))
    label = np.arange(25) % 3
    for k in (10, 20):
        predicted = brute_force(features[0], label, features[1], k, 0.07)
        assert scores[f"knn/top1@{k}"] == np.mean(np.array(predicted) == np.arange(5) % 3)
    card = read_card(tmp_path / "run" / BEST)
    assert card["best"] == "knn/top1@20"
    assert card["scores"] == scores
    assert card["protocol"]["knn"]["samples"] == [25, 5]


def test_a_failure_of_one_task_leaves_the_scores_of_the_other(
    data: Path, colors: dict[str, Path], tmp_path: Path
) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(colors["knn_test"], torn)
    evaluator = EvaluationDuringTraining(settings(data, **colors | {"knn_test": torn}), tmp_path / "run", 16, CPU)
    shard = torn / "shard-000000.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    scores = evaluator.evaluate(random_backbone(TINY, 0), 2)
    assert "davis/J&F-Mean" in scores
    assert not [name for name in scores if name.startswith("knn/")]
    (line,) = logged(tmp_path / "run")
    assert "frame 0 of sample test0 in" in line["failed"]["k-NN"]
    assert read_card(tmp_path / "run" / BEST)["best"] == "davis/J&F-Mean"


def test_settings_that_contradict_each_other_are_refused(colors: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="knn and knn_test are given together"):
        EvalSettings(knn=colors["knn"])
    with pytest.raises(ValueError, match=r"best = davis/J&F-Mean needs eval\.davis"):
        EvalSettings(**colors, best="davis/J&F-Mean")
    with pytest.raises(UserError, match=r"--eval.knn .* and --eval.knn_test .* share 25 samples"):
        EvaluationDuringTraining(settings(None, knn=colors["knn"], knn_test=colors["knn"]), tmp_path, 16, CPU)
    with pytest.raises(UserError, match="k = 20 needs as many samples; 5 are used"):
        EvaluationDuringTraining(settings(None, knn=colors["knn_test"], knn_test=colors["knn"]), tmp_path, 16, CPU)


def run_rank(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    colors = {"knn": folder / "colors" / "train", "knn_test": folder / "colors" / "test"}
    evaluator = EvaluationDuringTraining(settings(folder / "data", **colors), folder / "run", 16, CPU, rank, 2)
    scores = evaluator.evaluate(random_backbone(TINY, 0), 1)
    (folder / f"rank{rank}.json").write_text(json.dumps(scores))
    distributed.destroy_process_group()


@pytest.mark.dist
def test_two_ranks_share_the_work_and_agree_with_one(data: Path, colors: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "colors").symlink_to(colors["knn"].parent)
    run_ranks(run_rank, tmp_path)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    evaluator = EvaluationDuringTraining(settings(data, **colors), tmp_path / "alone", 16, CPU)
    alone = evaluator.evaluate(random_backbone(TINY, 0), 1)
    assert ranks[0] == ranks[1] == pytest.approx(alone)
    assert {"davis/J&F-Mean", "knn/top1@10", "knn/top1@20"} < alone.keys()
    assert len(logged(tmp_path / "run")) == 1


def test_a_run_scores_its_teacher_and_keeps_the_best_weights(data: Path, clip_dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    scored = {"train.epochs": 1, "eval.davis": data, "eval.every": 4, "eval.size": "96,160"}
    options = small(clip_dataset, run) | scored
    status, message = train(options)
    assert status == 0, message
    assert [line["step"] for line in logged(run)] == [4, 6]
    best = max(logged(run), key=lambda line: line["scores"]["davis/J&F-Mean"])
    export(run / "checkpoints" / f"step-{best['step']:08d}", tmp_path / "exported.safetensors", "teacher")
    exported = read_card(tmp_path / "exported.safetensors")
    assert exported["weights_sha256"] == backbone_sha256(load_backbone(run / BEST))
    kept = read_card(run / BEST)
    assert {key: kept.get(key) for key in exported} == exported
    assert str(tmp_path).encode() not in (run / BEST).read_bytes()
