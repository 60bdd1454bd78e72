"""Short real runs, nearly all in forks of a process that has imported everything; a few through the launchers."""

import gzip
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.commands.launch import launch_command, launch_command_parser
from PIL import Image
from safetensors.torch import load_file

from pipeline.files import sha256_file
from pipeline.reading import read_json_lines
from pipeline.storage import open_storage
from tests.indexing.made import write_colors
from tests.training.forks import Fork, free_port, launch, still_running, train, words
from tests.training.recorded import without_key_biases
from training.checkpoint import STATE, checkpoints
from training.distributed import LOCK
from training.metrics import read_metrics
from training.model import TCoRe, TCoReSettings
from training.profiler import FOLDER, RANGES, TRACE
from training.signals import INTERRUPTED_STATUS, REQUEUE_STATUS

ROOT = Path(__file__).parents[2]
SMALL = {
    "data.views.global_size": 64,
    "data.views.local_size": 32,
    "data.views.local_crops": 2,
    "model.backbone.width": 32,
    "model.backbone.depth": 2,
    "model.backbone.heads": 2,
    "model.backbone.image_size": 64,
    "model.backbone.layer_scale": 0.1,
    "model.head.hidden": 32,
    "model.head.bottleneck": 16,
    "model.head.prototypes": 64,
    "model.pmm.heads": 2,
    "schedule.warmup_epochs": 0,
    "schedule.freeze_last_layer_epochs": 0,
    "train.total_batch_size": 4,
    "train.epochs": 2,
    "train.steps_per_epoch": 6,
    "train.log_every": 1,
    "train.checkpoint_every": 4,
    "train.report": False,  # each takes a second
}


OVERFLOWING = {"model.loss.student_temperature": 1e-300}
"""Makes every loss infinite or NaN."""


def launcher_options(options: Mapping[str, object], config: str = "single") -> list[str]:
    """What follows `accelerate launch` or `python -m training.launch`."""
    return ["--config_file", f"configs/accelerate/{config}.yaml", "training/pretrain.py", *words(options)]


def small(shards: Path, out: Path, **options: object) -> dict[str, object]:
    """Options of a run of seconds."""
    return SMALL | {"data.shards": shards, "out": out} | options


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["loss/total"] for line in read_metrics(run)}


def final_state(run: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(checkpoints(run)[-1] / "model.safetensors")
    return tensors


def assert_same_run(run: Path, other: Path) -> None:
    """Two runs have the same losses and end with the same weights, bit for bit."""
    assert losses(run) == losses(other)
    ours, theirs = final_state(run), final_state(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def random_start() -> dict[str, torch.Tensor]:
    """The state that a small run begins with."""
    nested: dict[str, Any] = {"backbone": {}, "head": {}, "pmm": {}}
    for key, value in SMALL.items():
        if key.startswith("model."):
            _, part, name = key.split(".")
            nested[part][name] = value
    torch.manual_seed(0)
    return TCoRe(TCoReSettings.model_validate(nested)).state_dict()


@pytest.fixture(scope="module")
def undisturbed(clip_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    status, message = train(small(clip_dataset, out))
    assert status == 0, message
    return out


def assert_reported(run: Path, steps: int) -> None:
    """The report has curves, settings, data and samples, and asks for nothing from a network."""
    page = (run / "report.html").read_text()
    assert f"After {steps} of 12 steps, over" in page
    config = json.loads((run / "config.json").read_text())
    assert config["datasets"][0]["dataset_hash"] in page
    assert "student_temperature" in page
    scored = (run / "evaluations.jsonl").is_file()
    assert page.count("<svg") == 3 + scored, "loss, its parts, learning rate, scores"
    assert 'src="data:image/jpeg;base64,' in page
    assert not re.findall(r"https?:|url\(|@import|<link|<script", page)
    for name in ("report.png", "batch.png"):
        with Image.open(run / name) as picture:
            assert picture.width > 640


def assert_profiled(run: Path, output: str, steps: int) -> None:
    """The trace has the parts of so many steps, and the table was printed."""
    with gzip.open(run / FOLDER / TRACE) as stream:
        events = json.load(stream)["traceEvents"]
    counts = {name: sum(event.get("name") == name and event["ph"] == "X" for event in events) for name in RANGES}
    twice = {"student": 2 * steps, "losses": 2 * steps}  # the backbone and the head; KoLeo and the prototypes
    assert counts == dict.fromkeys(RANGES, steps) | twice
    assert re.search(r"^backward +\d+\.\d\d ms on the host$", output, re.MULTILINE)


def test_files_and_metrics_of_a_run(undisturbed: Path) -> None:
    assert [path.name for path in checkpoints(undisturbed)] == ["step-00000008", "step-00000012"]
    assert list(losses(undisturbed)) == list(range(1, 13))
    line = read_metrics(undisturbed)[-1]
    summands = [value for key, value in line.items() if key.startswith("loss/") and key != "loss/total"]
    assert line["loss/total"] == pytest.approx(sum(summands), rel=1e-5)
    assert {"loss/reconstruction_1", "loss/reconstruction_2", "loss/squeeze", "loss/koleo"} < set(line)
    assert 0 < line["target_entropy/cls"] < math.log(64)
    assert 0 < line["target_entropy/patches"] < math.log(64)
    assert 1 <= line["features/effective_rank"] <= 8
    assert line["center_norm/cls"] > 0
    assert line["center_norm/patches"] > 0
    assert list((undisturbed / "tensorboard").rglob("events*"))
    tensors = final_state(undisturbed)
    student, teacher = (tensors[f"{part}.backbone.blocks.0.mlp.fc1.weight"] for part in ("student", "teacher"))
    start = random_start()["teacher.backbone.blocks.0.mlp.fc1.weight"]
    assert 0 < (teacher - start).norm() < (student - start).norm()


def test_killed_runs_resume_bit_for_bit(undisturbed: Path, clip_dataset: Path, tmp_path: Path) -> None:
    options = {"train.checkpoint_every": 2}
    begun, ended = ((undisturbed / name).stat().st_mtime for name in ("config.json", "metrics.jsonl"))
    longest = ended - begun
    moments, kills, round_number, reached = random.Random(0), 0, 0, 0
    while kills < 3:
        out = tmp_path / f"killed-{round_number}"
        status, message = train(
            small(clip_dataset, out, **options), signal.SIGKILL, after_s=moments.uniform(0.1, 0.9) * longest
        )
        assert status in (0, -signal.SIGKILL), message
        kills += status != 0
        newest = checkpoints(out)[-1:] or [out / "step-00000000"]
        step = int(newest[0].name[-8:])
        assert step >= reached  # a checkpoint that was there still is, or a newer one
        assert "refused" not in message
        reached = step
        if status == 0:
            assert_same_run(out, undisturbed)
            round_number, reached = round_number + 1, 0
    out = tmp_path / f"killed-{round_number}"
    assert train(small(clip_dataset, out, **options))[0] == 0
    assert_same_run(out, undisturbed)
    assert [path.name for path in (out / "checkpoints").iterdir() if path.name.startswith(".")] == []


def test_a_signal_saves_a_checkpoint_and_the_resumed_run_is_identical(
    undisturbed: Path, clip_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    scored = {
        "eval.knn": write_colors(tmp_path / "train", 20, "train{}"),
        "eval.knn_test": write_colors(tmp_path / "test", 3, "test{}"),
        "eval.every": 4,
    }
    instruments = {"train.maps_every": 4, "train.profile": 2, "train.report": True}
    options = small(clip_dataset, out, **{"train.checkpoint_every": 100}, **instruments, **scored)
    status, message = train(options, signal.SIGUSR1, at_file=out / "metrics.jsonl")
    assert status == REQUEUE_STATUS, message
    (saved,) = checkpoints(out)
    assert f"interrupted after step {int(saved.name[-8:])}, which is saved" in message
    assert_reported(out, int(saved.name[-8:]))
    status, message = train(options)
    assert status == 0, message
    assert_same_run(out, undisturbed)
    assert_reported(out, 12)
    assert_profiled(out, message, 2)
    assert len(list((out / "attention" / "step-00000012").glob("*.png"))) == 4  # drawn, and no draw was disturbed
    assert read_json_lines(out / "evaluations.jsonl")[-1]["scores"].keys() == {"knn/top1@10", "knn/top1@20"}
    assert (out / "best.safetensors").is_file()


def test_unusable_checkpoints_are_named_and_the_one_before_is_used(
    undisturbed: Path, clip_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    older, newest = checkpoints(out)
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:-1000])
    foreign = out / "checkpoints" / "step-00000010"
    shutil.copytree(older, foreign)
    (foreign / "config.json").write_text((older / "config.json").read_text().replace('"epochs": 2', '"epochs": 3'))
    state = json.loads((foreign / STATE).read_text())
    state["sha256"]["config.json"] = sha256_file(foreign / "config.json")
    (foreign / STATE).write_text(json.dumps(state))
    status, message = train(small(clip_dataset, out))
    assert status == 0
    assert "step-00000012 is damaged (optimizer.pt has changed since it was written)" in message
    assert "step-00000010 is of a run with other settings: train.epochs = 3 (recorded), 2 (now)" in message
    assert f"continuing from {older}" in message
    assert_same_run(out, undisturbed)
    for path in checkpoints(out):
        (path / STATE).write_text("{}")
    status, message = train(small(clip_dataset, out))
    assert status == 2
    assert "no checkpoint can be used" in message


def test_resume_from_a_checkpoint_of_another_folder(undisturbed: Path, clip_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    status, message = train(small(clip_dataset, out, resume=checkpoints(undisturbed)[0]))
    assert status == 0, message
    assert list(losses(out)) == [9, 10, 11, 12]
    assert all(loss == losses(undisturbed)[step] for step, loss in losses(out).items())
    status, message = train(small(clip_dataset, tmp_path / "over", resume=checkpoints(undisturbed)[-1]))
    assert status == 0, message
    assert "nothing is left to do: all 12 steps are done" in message
    status, message = train(small(clip_dataset, out, resume=tmp_path / "nowhere"))
    assert status == 2
    assert "nowhere is not a training checkpoint" in message


def test_a_nonfinite_step_stops_the_run_and_can_be_repeated(clip_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    status, message = train(
        small(clip_dataset, out, **OVERFLOWING, **{"train.nonfinite_steps": 2, "train.keep_every": 1})
    )
    assert status == 2
    assert "step 0 is not finite and was skipped" in message
    assert "error: not finite in step 1: loss cls_local" in message
    report = json.loads((out / "nonfinite" / "step-00000001-rank-0.json").read_text())
    assert "gradient of the backbone" in report["broken"]
    assert len(report["samples"]) == 4
    with np.load(out / "nonfinite" / "step-00000001-rank-0.npz") as plan:
        assert plan["rows"].shape == (4,)
        assert plan["boxes.top"].shape == (4, 8)
    (before,) = checkpoints(out / "nonfinite")
    assert before.name == "step-00000001"
    again, message = train(small(clip_dataset, tmp_path / "again", resume=before, **OVERFLOWING))
    assert again == 2
    assert "error: not finite in step 1: loss cls_local" in message


def test_a_mixture_counts_all_samples_and_resumes_with_the_same_weights_only(
    clip_dataset: Path, tmp_path: Path
) -> None:
    def options(second: str, weight: float) -> dict[str, object]:
        mix = json.dumps([{"shards": str(shutil.copytree(clip_dataset, tmp_path / second)), "weight": weight}])
        mixed = small(clip_dataset, tmp_path / "run", **{"data.mix": mix, "train.checkpoint_every": 4})
        return {key: value for key, value in mixed.items() if key != "train.steps_per_epoch"}

    first = options("first", 0.5)
    status, message = train(first)
    assert status == 0, message
    assert "12 samples of 2 datasets, steps 0 to 6 of 4 samples" in message  # two epochs of 12 / 4 steps
    shutil.rmtree(checkpoints(tmp_path / "run")[-1])
    shutil.rmtree(tmp_path / "first")
    before = losses(tmp_path / "run")
    assert train(options("moved", 0.5))[0] == 0
    assert losses(tmp_path / "run") == before
    status, message = train(options("other", 0.25))
    assert status == 2
    assert "datasets.1.weight = 0.5 (recorded), 0.25 (now). Choose another --out" in message


def test_the_environment_changes_nothing_or_is_refused(undisturbed: Path, clip_dataset: Path, tmp_path: Path) -> None:
    asked = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "MASTER_ADDR": "node1"}
    status, message = train(small(clip_dataset, tmp_path / "run"), environment=asked)
    assert status == 2
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS = 4: set --train.micro_batch_size instead" in message
    status, message = train(small(clip_dataset, tmp_path / "run"), environment={"MASTER_ADDR": "node1"})
    assert status == 2
    assert "error: MASTER_ADDR = node1 asks for other ranks, but this process was started alone: start all" in message
    assert not (tmp_path / "run").exists()
    harmless = {"ACCELERATE_DYNAMO_MODE": "max-autotune", "FSDP_VERSION": "1", "RAY_ADDRESS": "head:6379"}
    status, message = train(small(clip_dataset, tmp_path / "run"), environment=harmless)
    assert status == 0, message
    assert message.startswith("1 machine, 1 rank, cpu\n")
    assert_same_run(undisturbed, tmp_path / "run")


def test_a_second_run_in_a_folder_is_kept_out(clip_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with open_storage(str(tmp_path / "run")).exclusive_lock(LOCK):
        status, message = train(small(clip_dataset, tmp_path / "run"))
        assert status == 2
        assert re.search(
            rf"error: another job is writing to {tmp_path}/run \(.*process {os.getpid()}.*stop it first", message
        )
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed_is_named(clip_dataset: Path, tmp_path: Path) -> None:
    status, message = train(small(clip_dataset, tmp_path / "run", **{"train.trackers": "tensorboard,wandb"}))
    assert status == 2
    assert "error: train.trackers has wandb, which is not installed: here are tensorboard" in message


@pytest.mark.dist
def test_two_machines_end_on_ctrl_c_at_one_and_one_rank_goes_on_with_the_same_global_batches(
    clip_dataset: Path, tmp_path: Path
) -> None:
    """`nodes2.yaml` on the loopback: a rank on the CPU for each of two launchers."""
    # the first step's rate is full, so later losses follow each other only as far as rounding lets them
    plain: dict[str, Any] = {"model.loss.koleo": 0, "model.backbone.drop_path": 0, "train.checkpoint_every": 100}
    assert train(small(clip_dataset, tmp_path / "one", **plain))[0] == 0
    file, out = tmp_path / "nodes2.yaml", tmp_path / "two-ranks"
    text = (ROOT / "configs/accelerate/nodes2.yaml").read_text()
    for before, after in (("num_processes: 16", "num_processes: 2"), ("29500", str(free_port()))):
        assert before in text
        text = text.replace(before, after)
    file.write_text(text + 'gpu_ids: "-1"\n')  # hides all GPUs there may be
    options = words(small(clip_dataset, out, **plain, **{"train.micro_batch_size": 1}))
    machines = [
        launch(["--config_file", str(file), "--machine_rank", str(rank), "training/pretrain.py", *options])
        for rank in range(2)
    ]
    machines[0].wait_for(out / "metrics.jsonl")
    os.killpg(machines[0].pid, signal.SIGINT)  # as a terminal does
    for machine in machines:
        status, message = machine.result()
        assert status == INTERRUPTED_STATUS, message
        assert message.startswith("2 machines, 2 ranks, cpu\n")
        assert "Traceback" not in message
    assert still_running(str(out)) == []
    assert len(checkpoints(out)) == 1
    assert not list((out / "checkpoints").glob(".tmp-*"))
    assert not (out / LOCK).exists()
    status, message = train(small(clip_dataset, out, **plain))
    assert status == 0, message
    one, two = losses(tmp_path / "one"), losses(out)
    assert one.keys() == two.keys()
    assert two[1] == pytest.approx(one[1], rel=1e-5)
    assert two == pytest.approx(one, rel=2e-3)
    states = (random_start(), final_state(tmp_path / "one"), final_state(out))
    assert states[1].keys() == states[2].keys()
    for name in states[1]:
        start, ours, theirs = (without_key_biases(name, state[name]) for state in states)
        assert (theirs - ours).norm() <= 2e-3 * (ours - start).norm(), name


def test_training_lowers_the_loss(clip_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options: dict[str, object] = {
        "model.loss.squeeze": 0,
        "optimizer.layer_decay": 1.0,
        "schedule.base_lr": 0.06,
        "schedule.warmup_epochs": 1,
        "schedule.momentum": 0.98,
        "schedule.teacher_temperature": 0.015,
        "schedule.final_teacher_temperature": 0.015,
        "train.total_batch_size": 6,
        "train.epochs": 3,
        "train.steps_per_epoch": 10,
        "train.checkpoint_every": 100,
    }
    status, message = train(small(clip_dataset, out, **options))
    assert status == 0, message
    curve = list(losses(out).values())
    assert all(map(math.isfinite, curve))
    assert sum(curve[-6:]) < 0.8 * sum(curve[:6])


@pytest.mark.gpu
def test_a_run_on_a_gpu_in_bf16_with_compiled_blocks(clip_dataset: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    out = tmp_path / "run"
    options = {"train.precision": "bf16", "train.compile": True, "train.recompute": "selective"}
    command = [sys.executable, "-m", "training.launch", *launcher_options(small(clip_dataset, out, **options))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(map(math.isfinite, losses(out).values()))


def test_accelerate_launch_says_bad_options(tmp_path: Path) -> None:
    options = launcher_options(small(tmp_path / "nowhere", tmp_path / "run", **{"train.batch": 3}))
    status, message = Fork(accelerate_launch, options).result()
    assert status != 0
    assert "unknown option --train.batch" in message


def accelerate_launch(arguments: list[str]) -> None:
    """The program `accelerate launch`."""
    launch_command(launch_command_parser().parse_args(arguments))
