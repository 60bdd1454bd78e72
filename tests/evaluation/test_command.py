import json
from pathlib import Path

import pytest

from evaluation.command import checkpoint_names, prepare_output, select_device, write_result
from pipeline.settings import UserError


def test_an_output_folder_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    (out / "predictions" / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match="was not made by this task"):
        prepare_output(out, data, "davis")
    assert (out / "predictions" / "mine").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        prepare_output(tmp_path / "file", data, "davis")


def test_an_interrupted_run_of_the_same_task_is_replaced_and_other_files_stay(tmp_path: Path) -> None:
    prepare_output(tmp_path / "out", tmp_path / "data", "davis")
    (tmp_path / "out" / "predictions" / "dog").mkdir(parents=True)
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(UserError, match="was not made by this task"):
        prepare_output(tmp_path / "out", tmp_path / "data", "vip")
    prepare_output(tmp_path / "out", tmp_path / "data", "davis")
    assert not (tmp_path / "out" / "predictions").exists()
    assert (tmp_path / "out" / "notes.txt").exists()


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
