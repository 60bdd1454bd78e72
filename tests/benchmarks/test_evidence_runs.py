import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.evidence_runs import FINISHED, EvalSetup, Run, commands, core_groups, run_all, run_logged, training
from benchmarks.evidence_variants import VARIANTS, Variant, variant
from benchmarks.programs import Programs
from evaluation.command import evaluation_command
from evaluation.davis import DAVIS
from pipeline.settings import UserError, parse_command
from tests.evaluation.trees import moving_squares, write_sequence
from tests.training.forks import program
from training.backbone.vit import VitSettings
from training.backbone.weights import random_backbone, save_backbone
from training.pretrain import PretrainCommand


def a_run(folder: Path, chosen: Variant, points: int = 0) -> Run:
    setup = EvalSetup("demo", folder / "shards", {"davis": folder / "davis"}, (64, 96))
    return Run(setup, chosen, 1, 20, points, folder / chosen.name, folder / "architecture.safetensors")


def test_cores_are_divided_without_rest() -> None:
    assert core_groups([0, 1, 2, 3, 4], 2) == [{0, 2, 4}, {1, 3}]
    assert core_groups([3, 7], 4) == [{3}, {7}]


def test_training_command_is_one_that_training_accepts(tmp_path: Path) -> None:
    argv = training(a_run(tmp_path, variant("past-only"), points=2), epochs=20)
    command = parse_command(PretrainCommand, argv[argv.index("training/pretrain.py") + 1 :])
    assert (command.data.seed, command.train.seed, command.train.steps_per_epoch) == (1, 1, 1)
    assert (command.eval.davis, command.eval.size, command.eval.every) == (tmp_path / "davis", (64, 96), 10)


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    run = a_run(tmp_path, variant("full"))
    run.folder.mkdir()
    (run.folder / FINISHED).write_text('{"scores": {}}')
    run_all([run], 20, 2, Programs())
    assert [path.name for path in run.folder.iterdir()] == [FINISHED]


def test_a_program_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with pytest.raises(UserError, match=r"'print\(7\);raise SystemExit\(2\) x' failed with status 2; see .*log.txt"):
        run_logged(Programs(), ("python", "-c", "print(7);raise SystemExit(2)", "x"), log)
    assert log.read_text() == "$ python -c print(7);raise SystemExit(2) x\n7\n"


class Forks(Programs):
    """The same programs in forks of a process that has imported them."""

    def run(
        self,
        argv: Sequence[str],
        log: Path | None = None,
        timeout_s: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> int | None:
        status, message = program(argv, environment).result()
        assert status == 0, message
        return status


@pytest.mark.slow
def test_a_variant_is_trained_scored_and_recorded(
    tmp_path: Path, clip_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, masks = moving_squares(6)
    write_sequence(tmp_path / "davis", "squares", frames, dict(enumerate(masks)))
    setup = EvalSetup("demo", clip_dataset, {"davis": tmp_path / "davis"}, (64, 96))
    backbone = VitSettings(width=32, depth=1, heads=2, patch_size=8, image_size=64)
    save_backbone(tmp_path / "architecture.safetensors", random_backbone(backbone, 0), {})
    small = ("--train.total_batch_size", "2", "--model.backbone.depth", "1", "--train.epochs", "4")
    run = Run(setup, Variant("full", "full", small), 0, 4, 2, tmp_path / "full", tmp_path / "architecture.safetensors")
    run_all([run], 4, 2, Forks())
    trained = json.loads((run.folder / FINISHED).read_text())
    assert [step for step, _ in trained["curve"]] == [2, 4]
    assert trained["scores"]["J&F-Mean"] == pytest.approx(trained["curve"][-1][1])
    assert {"reconstruction_1", "squeeze", "total"} <= trained["losses"].keys()
    assert [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()] == ["demo: full"]


def test_random_weights_are_scored_without_training(tmp_path: Path) -> None:
    (score,) = commands(a_run(tmp_path, VARIANTS[0]), epochs=20)
    command = parse_command(evaluation_command(DAVIS), list(score[score.index("davis") + 1 :]))
    assert (command.random_init, command.seed) == (True, 1)
    assert command.weights == (tmp_path / "architecture.safetensors",)
