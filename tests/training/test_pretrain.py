"""Short real runs through `accelerate launch`."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.reader.loader import ReaderSettings
from pipeline.settings import UserError
from tests.processes import heed_ctrl_c, left_in_session
from training.checkpoint import checkpoints
from training.metrics import read_metrics
from training.model import TCoRe, TCoReSettings
from training.pretrain import PretrainCommand, check_finite, check_run_folder, check_shapes

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
}


def launch_command(options: Mapping[str, object], processes: int = 1) -> list[str]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_processes", str(processes)]
    return [*launcher, "training/pretrain.py", *(f"--{key}={value}" for key, value in options.items())]


def launch(options: Mapping[str, object], processes: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(launch_command(options, processes), cwd=ROOT, capture_output=True, text=True)


def small(shards: Path, out: Path, **options: object) -> dict[str, object]:
    """Options of a run of seconds."""
    return SMALL | {"data.shards": shards, "out": out} | options


def losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["loss/total"] for line in read_metrics(run)}


def random_start() -> dict[str, torch.Tensor]:
    """The state that a small run begins with."""
    model = {key.removeprefix("model."): value for key, value in SMALL.items() if key.startswith("model.")}
    nested: dict[str, Any] = {"backbone": {}, "head": {}, "pmm": {}}
    for key, value in model.items():
        part, _, name = key.partition(".")
        nested[part][name] = value
    torch.manual_seed(0)
    return TCoRe(TCoReSettings.model_validate(nested)).state_dict()


@pytest.fixture(scope="module")
def undisturbed(clip_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = launch(small(clip_dataset, out))
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_leaves_what_it_should(undisturbed: Path) -> None:
    assert [path.name for path in checkpoints(undisturbed)] == ["step-00000008", "step-00000012"]
    assert list(losses(undisturbed)) == list(range(1, 13))
    line = read_metrics(undisturbed)[-1]
    terms = [value for key, value in line.items() if key.startswith("loss/") and key != "loss/total"]
    assert line["loss/total"] == pytest.approx(sum(terms), rel=1e-5)
    assert {"loss/reconstruction_1", "loss/reconstruction_2", "loss/squeeze", "loss/koleo"} < set(line)
    assert list((undisturbed / "tensorboard").rglob("events*"))
    tensors = load_file(checkpoints(undisturbed)[-1] / "model.safetensors")
    assert tensors["dino_loss.center"].abs().sum() > 0
    student, teacher = (tensors[f"{part}.backbone.blocks.0.mlp.fc1.weight"] for part in ("student", "teacher"))
    start = random_start()["teacher.backbone.blocks.0.mlp.fc1.weight"]
    assert 0 < (teacher - start).norm() < (student - start).norm()


def test_killed_run_continues_to_the_same_weights(undisturbed: Path, clip_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    job = subprocess.Popen(
        launch_command(small(clip_dataset, out)),
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 90
    while not checkpoints(out):
        assert job.poll() is None, job.stderr.read() if job.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    continued = launch(small(clip_dataset, out))
    assert continued.returncode == 0, continued.stderr
    assert [line["step"] for line in read_metrics(out)] == list(range(1, 13))
    assert losses(out) == losses(undisturbed)
    ours, theirs = (load_file(checkpoints(run)[-1] / "model.safetensors") for run in (out, undisturbed))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    again = launch(small(clip_dataset, out))
    assert again.returncode == 0
    assert "is finished" in again.stdout


@pytest.mark.dist
def test_two_ranks_see_the_global_batch_of_one(undisturbed: Path, clip_dataset: Path, tmp_path: Path) -> None:
    # the first step's rate is full, so later losses follow each other only as far as rounding lets them
    runs = {}
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}-ranks"
        options: dict[str, Any] = {"model.loss.koleo": 0, "model.backbone.drop_path": 0, "train.epochs": 1}
        done = launch(small(clip_dataset, out, **options), ranks)
        assert done.returncode == 0, done.stderr
        runs[ranks] = losses(out)
    assert runs[1].keys() == runs[2].keys()
    for step, loss in runs[1].items():
        assert runs[2][step] == pytest.approx(loss, rel=2e-3)
    assert runs[2][1] == pytest.approx(runs[1][1], rel=1e-5)


def test_ctrl_c_ends_in_one_line(clip_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    job = subprocess.Popen(
        launch_command(small(clip_dataset, out, **{"train.epochs": 500})),
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not checkpoints(out):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGINT)
    _, said = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "interrupted" in said
    assert left_in_session(job.pid) == []
    assert not list((out / "checkpoints").glob(".tmp-*"))


@pytest.mark.slow
def test_training_on_real_clips_lowers_the_loss(real_clip_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"config": "configs/demo.yaml", "data.shards": real_clip_dataset, "out": out}
    options |= {"train.epochs": 5, "train.steps_per_epoch": 10, "train.log_every": 1}
    done = launch(options)
    assert done.returncode == 0, done.stderr
    curve = list(losses(out).values())
    assert len(curve) == 50
    assert all(map(math.isfinite, curve))
    assert sum(curve[-10:]) < 0.95 * sum(curve[:10])


def settings(**values: Any) -> PretrainCommand:
    data = ReaderSettings(shards=Path("x")).model_dump() | values.pop("data", {})
    return PretrainCommand.model_validate({"out": "run", "data": data, **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"patch_size": 8}}, r"data\.patch_size = 8 and model\.backbone\.patch_size = 16"),
        ({"data": {"views": {"local_size": 90}}}, r"data\.views\.local_size = 90 must be a multiple"),
        ({"model": {"auxiliary_branch": False}}, r"model\.auxiliary_branch = False does not fit"),
        ({"data": {"sandwich": {"auxiliary": []}}}, r"model\.auxiliary_branch = True does not fit"),
    ],
)
def test_contradicting_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_shapes(settings(**values))


def test_a_run_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    out = tmp_path / "run"
    check_run_folder(out, {"train": {"epochs": 1, "log_every": 1}, "dataset_hash": "a"})
    check_run_folder(out, {"train": {"epochs": 2, "log_every": 1}, "dataset_hash": "a"})  # nothing was trained yet
    (out / "checkpoints" / "step-00000001").mkdir(parents=True)
    (out / "checkpoints" / "step-00000001" / "state.json").touch()
    check_run_folder(out, {"train": {"epochs": 2, "log_every": 5}, "dataset_hash": "a"})
    with pytest.raises(UserError, match=r"train\.epochs = 2 there, 3 here\. Choose another --out"):
        check_run_folder(out, {"train": {"epochs": 3, "log_every": 5}, "dataset_hash": "a"})
    with pytest.raises(UserError, match="dataset_hash = a there, b here"):
        check_run_folder(out, {"train": {"epochs": 2, "log_every": 5}, "dataset_hash": "b"})
    (out / "config.json").write_text("{")
    with pytest.raises(UserError, match="no valid JSON"):
        check_run_folder(out, {})


def test_a_loss_that_is_no_number_names_step_and_term() -> None:
    terms = {"koleo": torch.tensor(math.nan), "cls_local": torch.tensor(1.0), "total": torch.tensor(math.nan)}
    with pytest.raises(UserError, match="not finite in step 7, in the terms koleo:"):
        check_finite(terms, 7)


def test_launch_refuses_bad_options_in_one_line(tmp_path: Path) -> None:
    done = launch(small(tmp_path / "nowhere", tmp_path / "run"))
    assert done.returncode != 0
    assert "holds no finished shard dataset" in done.stderr
    unknown = launch(small(tmp_path, tmp_path / "run", **{"train.batch": 3}))
    assert "unknown option --train.batch" in unknown.stderr
