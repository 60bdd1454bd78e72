import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.made_shards import make_shards
from pipeline.dataset import ShardDataset, read_manifest
from pipeline.neighbours import write_neighbours
from pipeline.reader.settings import ReaderSettings
from pipeline.settings import UserError
from pipeline.storage import open_storage
from training.checkpoint import CHECKPOINTS
from training.metrics import METRICS
from training.nonfinite import FOLDER
from training.pretrain import PretrainCommand
from training.run_config import (
    WRITTEN,
    RunData,
    check_run_folder,
    check_shapes,
    choose_backend,
    read_data,
    run_config,
    run_differences,
    write_config,
)

DATA = RunData([{"dataset_hash": "a", "weight": 1.0}, {"dataset_hash": "b", "weight": 0.5}], None, 18)


def settings(**values: Any) -> PretrainCommand:
    data = ReaderSettings(shards=Path("x")).model_dump() | values.pop("data", {})
    return PretrainCommand.model_validate({"out": "run", "data": data} | values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"patch_size": 8}}, r"data\.patch_size = 8 and model\.backbone\.patch_size = 16"),
        ({"data": {"views": {"local_size": 90}}}, r"data\.views\.local_size = 90 must be a multiple"),
        ({"model": {"auxiliary_branch": False}}, r"model\.auxiliary_branch = False does not match"),
        ({"model": {"auxiliary_branch": False, "teacher_sees": "auxiliary"}}, r"needs data\.all_auxiliary = true"),
        ({"data": {"sandwich": {"auxiliary": []}}}, r"model\.auxiliary_branch = True does not match"),
    ],
)
def test_contradicting_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_shapes(settings(**values))


def test_a_run_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    out = tmp_path / "run"

    def config(epochs: int, log_every: int = 1, dataset_hash: str = "a") -> dict[str, Any]:
        train = {"epochs": epochs, "log_every": log_every}
        return {"train": train, "model": {}, "data": {}, "dataset_hash": dataset_hash}

    check_run_folder(out, config(1), begun=False)
    write_config(out, config(1))
    check_run_folder(out, config(2), begun=False)
    write_config(out, config(2))
    check_run_folder(out, config(2, log_every=5), begun=True)
    with pytest.raises(UserError, match=r"train\.epochs = 2 \(recorded\), 3 \(now\)\. Choose another --out"):
        check_run_folder(out, config(3, log_every=5), begun=True)
    with pytest.raises(UserError, match=r"dataset_hash = 'a' \(recorded\), 'b' \(now\)"):
        check_run_folder(out, config(2, 5, "b"), begun=True)
    (out / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"not valid JSON .*Restore it or choose another --out"):
        check_run_folder(out, config(2), begun=True)


def test_a_run_without_a_checkpoint_begins_again_with_the_same_weights(tmp_path: Path) -> None:
    init = {"source": "dino.pth", "source_sha256": "ab" * 32, "file_sha256": "ab" * 32}
    model = {"init": "/my weights/dino.pth", "init_options": {"heads": 3, "family": None, "mean": [0.5, 0.5, 0.5]}}
    branch: dict[str, Any] = {
        "step": 8,
        "sha256": {"config.json": "00" * 32, "model.safetensors": "cd" * 32},
        "config": {},
    }
    random = {"train": {}, "data": {}, "model": {"init": None}, "init": None, "branched_from": None}
    begun = random | {"model": model, "init": init}
    again = (
        r"that began with the weights dino\.pth \(abababababab\): give --model\.init '/my weights/dino\.pth' "
        r"--model\.init_options\.heads 3 --model\.init_options\.mean 0\.5,0\.5,0\.5 again, as there is no checkpoint"
    )
    write_config(tmp_path, begun)
    check_run_folder(tmp_path, begun | {"model": model | {"init": "moved"}, "train": {"epochs": 3}}, begun=False)
    for other in ({"init": init | {"source_sha256": "ef" * 32}}, {"model": {"init_options": {"heads": 6}}}):
        with pytest.raises(UserError, match=again):
            check_run_folder(tmp_path, begun | other, begun=False)
    with pytest.raises(UserError, match=again):
        check_run_folder(tmp_path, random, begun=False)
    write_config(tmp_path, begun | {"branched_from": branch})
    check_run_folder(tmp_path, begun | {"branched_from": branch}, begun=False)
    for origin in (None, branch | {"step": 9}, branch | {"sha256": {"model.safetensors": "ef" * 32}}):
        with pytest.raises(UserError, match=r"branched from step 8 .*: give --train\.branch true --resume RUN.*00008 "):
            check_run_folder(tmp_path, begun | {"branched_from": origin}, begun=False)
    write_config(tmp_path, random)
    check_run_folder(tmp_path, begun, begun=False)


@pytest.mark.parametrize("name", [*(name for name in WRITTEN if "." in name), "best.safetensors"])
def test_a_run_replaces_no_other_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"model_type": "dinov2"}')
    with pytest.raises(UserError, match=f"holds {name}, which would be replaced, but no config"):
        check_run_folder(tmp_path, {"train": {}, "model": {}, "data": {}}, begun=False, files=("best.safetensors",))
    assert (tmp_path / name).read_text() == '{"model_type": "dinov2"}'
    assert {CHECKPOINTS, METRICS, FOLDER} < set(WRITTEN)


def test_settings_that_cannot_change_the_result_may_differ() -> None:
    first, other = (
        run_config(settings(out=out, train={"log_every": n, "branch": n > 1}), DATA) for out, n in (("a", 1), ("b", 9))
    )
    assert first != other
    assert run_differences(first, other) == ""
    assert run_differences(first, run_config(settings(train={"seed": 1}), DATA)) == "train.seed = 0 (recorded), 1 (now)"
    assert json.loads(json.dumps(first)) == first


def test_the_unit_of_the_sandwich_belongs_to_a_run() -> None:
    fraction, seconds = (
        run_config(settings(data={"sandwich": sandwich}), DATA) for sandwich in ({}, {"unit": "seconds"})
    )
    assert "data.sandwich.unit = None (recorded), 'seconds' (now)" in run_differences(fraction, seconds)
    assert "data.sandwich.past_offset = [1.5, 2.5] (recorded), [0.15, 0.25] (now)" in run_differences(seconds, fraction)


def test_a_run_that_continues_keeps_its_back_end() -> None:
    def config(command: PretrainCommand) -> dict[str, Any]:
        return run_config(command, DATA)

    on_cpu, on_gpu = (choose_backend(settings(), None, device) for device in ("cpu", "cuda"))
    assert (on_cpu.data.backend, on_gpu.data.backend) == ("torch", "dali")
    moved = choose_backend(settings(), config(on_gpu), "cpu")
    assert run_differences(config(on_gpu), config(moved)) == ""
    given = choose_backend(settings(data={"backend": "torch"}), config(on_gpu), "cpu")
    assert run_differences(config(on_gpu), config(given)) == "data.backend = 'dali' (recorded), 'torch' (now)"
    older = config(on_cpu)
    del older["data"]["backend"]
    assert run_differences(older, config(choose_backend(settings(), older, "cpu"))) == ""
    assert "data.backend" in run_differences(older, config(on_cpu))


@pytest.mark.parametrize(
    ("config", "preset"),
    [
        (None, None),
        ("configs/paper-vits16-k400.yaml", "paper-vits16-k400"),
        ("configs/ablations.yaml:past-only", "ablations:past-only"),
        ("configs/ablations.yaml:mask-ratio-0.2-0.6", "ablations:mask-ratio-0.2-0.6"),
    ],
)
def test_the_preset_is_recorded_by_name(config: str | None, preset: str | None) -> None:
    assert run_config(settings(config=config), DATA)["preset"] == preset


@pytest.mark.parametrize(
    ("data", "difference"),
    [
        (RunData(DATA.datasets[:1], None, 6), r"datasets\.1\.dataset_hash = 'b' \(recorded\), None \(now\)"),
        (RunData(DATA.datasets[::-1], None, 18), r"datasets\.0\.dataset_hash = 'a' \(recorded\), 'b' \(now\)"),
        (
            RunData([DATA.datasets[0], {"dataset_hash": "b", "weight": 1.0}], None, 18),
            r"datasets\.1\.weight = 0\.5 \(recorded\)",
        ),
        (DATA._replace(neighbours="c"), r"neighbours_sha256 = None \(recorded\), 'c' \(now\)"),
    ],
)
def test_another_mixture_is_another_run(data: RunData, difference: str) -> None:
    first, other = (run_config(settings(), data) for data in (DATA, data))
    assert re.match(difference, run_differences(first, other))


@pytest.fixture(scope="module")
def other_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "other", 12, frames=2, size=(32, 32), per_shard=4)


def test_data_is_identified_by_content_and_weight(clip_dataset: Path, other_dataset: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(other_dataset, tmp_path / "moved")
    first, second = (
        ReaderSettings.model_validate(
            {"shards": clip_dataset, "weight": 2.0, "mix": [{"shards": other, "weight": 0.5}]}
        )
        for other in (other_dataset, moved)
    )
    data = read_data(first)
    assert data == read_data(second)
    assert data.datasets[0] == {"dataset_hash": read_manifest(clip_dataset).dataset_hash, "weight": 2.0}
    assert data.datasets[1] == {"dataset_hash": read_manifest(other_dataset).dataset_hash, "weight": 0.5}
    assert data.samples == 6 + 12
    assert not run_differences(*(run_config(settings(data=reader.model_dump()), data) for reader in (first, second)))


def test_neighbours_are_identified_by_their_rows(other_dataset: Path, clip_dataset: Path, tmp_path: Path) -> None:
    dataset = ShardDataset(other_dataset)
    metadata = {"dataset_hash": dataset.manifest.dataset_hash}
    rows = np.stack([np.roll(np.arange(12), shift) for shift in (1, 2)], axis=1).astype(np.int32)
    result = []
    for name, table in (("one", rows), ("again", rows), ("other", rows[:, ::-1])):
        write_neighbours(open_storage(str(tmp_path / name)), dataset.keys, table, table.astype(np.float32), metadata)
        result.append(read_data(ReaderSettings(shards=str(other_dataset), neighbours=tmp_path / name)).neighbours)
    assert result[0] == result[1] != result[2]
    with pytest.raises(UserError, match="was made from other shards"):
        read_data(ReaderSettings(shards=str(clip_dataset), neighbours=tmp_path / "one"))
