import json
from pathlib import Path

import pytest

from evaluation.command import fingerprint, prepare_output, select_device, write_result
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


def test_fingerprint_depends_on_names_and_bytes_and_not_on_the_place(tmp_path: Path) -> None:
    def tree(root: str, **files: str) -> str:
        (tmp_path / root).mkdir()
        for name, text in files.items():
            (tmp_path / root / name).write_text(text)
        return fingerprint(tmp_path / root, (tmp_path / root).iterdir())

    same = tree("a", x="1", y="2")
    assert same == tree("b", y="2", x="1")
    assert len({same, tree("c", x="2", y="1"), tree("d", x="1", z="2")}) == 3
    with pytest.raises(UserError, match="gone"):
        fingerprint(tmp_path, [tmp_path / "gone"])


def test_missing_numbers_are_null(tmp_path: Path) -> None:
    write_result(tmp_path / "result.json", {"a": float("nan"), "b": [1.5, {"c": float("inf")}]})
    assert json.loads((tmp_path / "result.json").read_text()) == {"a": None, "b": [1.5, {"c": None}]}


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99", "cpu:"])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}"):
        select_device(name)
    assert select_device("cpu").type == "cpu"
