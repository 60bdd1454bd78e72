import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.command import (
    checkpoint_names,
    evaluation_command,
    open_checkpoints,
    prepare_output,
    select_device,
    write_result,
)
from evaluation.davis import DAVIS
from pipeline.settings import UserError
from training.backbone.vit import VitSettings
from training.backbone.weights import random_backbone, save_backbone


def test_an_output_folder_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    (out / "predictions" / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match="was not made by `python -m evaluation"):
        prepare_output(out, data, "davis")
    assert (out / "predictions" / "mine").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        prepare_output(tmp_path / "file", data, "davis")


def test_an_interrupted_run_of_the_same_task_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    prepare_output(tmp_path / "out", tmp_path / "data", "davis")
    (tmp_path / "out" / "predictions" / "dog").mkdir(parents=True)
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(UserError, match="was not made by `python -m evaluation"):
        prepare_output(tmp_path / "out", tmp_path / "data", "vip")
    prepare_output(tmp_path / "out", tmp_path / "data", "davis")
    assert not (tmp_path / "out" / "predictions").exists()
    assert (tmp_path / "out" / "notes.txt").exists()


@pytest.mark.parametrize(
    "name", ["predictions/dog/notes.md", "checkpoints/step-1/model.safetensors", "sheets/link.png"]
)
def test_what_somebody_put_among_results_is_not_removed(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    made = [out / "davis.json", out / "predictions/do.g/00000.png", out / "checkpoints/a.b/predictions/dog/0.txt"]
    made += [out / "checkpoints/a.b/davis.json", out / "checkpoints/a.b/sheets/dog.png", out / "sheets/dog.png"]
    prepare_output(out, tmp_path / "data", "davis")
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    prepare_output(out, tmp_path / "data", "davis")
    assert not any(path.exists() for path in made)
    (out / name).parent.mkdir(parents=True)
    (tmp_path / "mine").touch()
    (out / name).symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=f"{name} was not made by `python -m evaluation davis`; choose another --out"):
        prepare_output(out, tmp_path / "data", "davis")
    assert (out / name).exists()


def test_missing_numbers_are_null(tmp_path: Path) -> None:
    write_result(tmp_path / "result.json", {"a": float("nan"), "b": [1.5, {"c": float("inf")}]})
    assert json.loads((tmp_path / "result.json").read_text()) == {"a": None, "b": [1.5, {"c": None}]}


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99", "cpu:"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}"):
        select_device(name)
    assert select_device("cpu").type == "cpu"


def test_checkpoints_of_one_name_get_that_of_their_folder_and_then_a_number() -> None:
    paths = [Path(path) for path in ("a/teacher.pth", "b/teacher.pth", "b/other.pth", "c/b/teacher.safetensors")]
    assert checkpoint_names(paths) == ["a-teacher", "b-teacher", "other", "b-teacher-2"]


def test_random_parameters_are_drawn_with_the_seed_that_the_record_names(tmp_path: Path) -> None:
    settings = VitSettings(width=32, depth=1, heads=2, image_size=32)
    save_backbone(tmp_path / "w.safetensors", random_backbone(settings, 0), card={})
    options: dict[str, Any] = {
        "data": tmp_path,
        "weights": tmp_path / "w.safetensors",
        "random_init": True,
    }
    (checkpoint,) = open_checkpoints(evaluation_command(DAVIS)(**options, out=tmp_path / "out", seed=3, device="cpu"))
    assert checkpoint.origin["random_init_seed"] == 3
    expected = random_backbone(settings, 3).state_dict()["cls_token"]
    assert checkpoint.backbone.state_dict()["cls_token"].equal(expected)
