import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.reader.loader import ReaderSettings
from pipeline.settings import UserError
from training.pretrain import PretrainCommand
from training.run_config import check_run_folder, check_shapes, differences, run_config


def settings(**values: Any) -> PretrainCommand:
    data = ReaderSettings(shards=Path("x")).model_dump() | values.pop("data", {})
    return PretrainCommand.model_validate({"out": "run", "data": data} | values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"patch_size": 8}}, r"data\.patch_size = 8 and model\.backbone\.patch_size = 16"),
        ({"data": {"views": {"local_size": 90}}}, r"data\.views\.local_size = 90 must be a multiple"),
        ({"model": {"auxiliary_branch": False}}, r"model\.auxiliary_branch = False does not fit"),
        ({"model": {"auxiliary_branch": False, "teacher_sees": "auxiliary"}}, r"needs data\.all_auxiliary = true"),
        ({"data": {"sandwich": {"auxiliary": []}}}, r"model\.auxiliary_branch = True does not fit"),
    ],
)
def test_contradicting_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_shapes(settings(**values))


def test_a_run_folder_belongs_to_one_configuration(tmp_path: Path) -> None:
    out = tmp_path / "run"
    check_run_folder(out, {"train": {"epochs": 1, "log_every": 1}, "dataset_hash": "a"}, begun=False)
    check_run_folder(out, {"train": {"epochs": 2, "log_every": 1}, "dataset_hash": "a"}, begun=False)
    check_run_folder(out, {"train": {"epochs": 2, "log_every": 5}, "dataset_hash": "a"}, begun=True)
    with pytest.raises(UserError, match=r"train\.epochs = 2 there, 3 here\. Choose another --out"):
        check_run_folder(out, {"train": {"epochs": 3, "log_every": 5}, "dataset_hash": "a"}, begun=True)
    with pytest.raises(UserError, match="dataset_hash = a there, b here"):
        check_run_folder(out, {"train": {"epochs": 2, "log_every": 5}, "dataset_hash": "b"}, begun=True)
    (out / "config.json").write_text("{")
    with pytest.raises(UserError, match="no valid JSON"):
        check_run_folder(out, {}, begun=True)


def test_only_what_can_change_the_result_tells_runs_apart() -> None:
    first, other = (run_config(settings(out=out, train={"log_every": n}), "hash") for out, n in (("a", 1), ("b", 9)))
    assert first != other
    assert differences(first, other) == []
    assert differences(first, run_config(settings(train={"seed": 1}), "hash")) == ["train.seed = 0 there, 1 here"]
    assert json.loads(json.dumps(first)) == first
