"""Files of any kind are told apart by their content, and what cannot be read is named without running it."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from pipeline.settings import UserError
from tests.training.backbone.made import Runs
from training.backbone.tensor_files import read_tensors


def saved(content: object, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def legacy() -> bytes:
    return saved(OrderedDict(a=torch.ones(3)), zipped=False)


def cut_in_a_name() -> bytes:
    return legacy()[: legacy().index(b"OrderedDict") + 9]


def itself() -> dict[str, Any]:
    content: dict[str, Any] = {"a": torch.ones(2)}
    content["again"] = content
    return content


def countless() -> object:
    content: object = torch.ones(1)
    for _ in range(12):
        content = {str(number): content for number in range(10)}
    return content


@pytest.mark.parametrize("length", [0x80, 0x3C20], ids=["as a pickle", "as a web page"])
def test_a_header_whose_length_begins_as_another_kind_of_file_is_read(tmp_path: Path, length: int) -> None:
    given = next(
        content
        for size in range(max(0, length - 120), length)
        if int.from_bytes((content := save({"a": torch.ones(3)}, {"x": "y" * size}))[:8], "little") == length
    )
    (tmp_path / "weights").write_bytes(given)
    assert torch.equal(read_tensors(tmp_path / "weights")["a"], torch.ones(3))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: b"\xef\xbb\xbf\n<!DOCTYPE html>", "is a web page, not weights"),
        (lambda: "\ufeff<html>Sign in".encode("utf-16-le"), "is a web page, not weights"),
        (lambda: "\ufeff<html>Sign in".encode("utf-16-be"), "is a web page, not weights"),
        (cut_in_a_name, "is cut off or damaged"),
        (lambda: legacy()[:-5], "is cut off or damaged"),
        (lambda: saved(itself()), r"holds dicts in dicts without end \(again\.again\."),
        (lambda: saved(countless()), "holds more than 100000 entries"),
        (lambda: saved({"a": torch.eye(2).to_sparse()}), "holds a as a sparse or nested tensor, which is not read"),
        (lambda: saved({"a": torch.eye(2, device="meta")}), r"holds a as a meta \(without values\) tensor"),
        (lambda: saved({"a": torch.ones(1).expand(10**12)}), r"holds a as a repeating \(expanded\) tensor"),
        (lambda: pickle.dumps({"a": 1}), "is not a PyTorch file of plain tensors"),
        (lambda: b"\x93NUMPY\x01\x00", "is not a PyTorch file of plain tensors"),
    ],
)
def test_what_holds_no_plain_tensors_is_named(tmp_path: Path, content: Callable[[], bytes], words: str) -> None:
    (tmp_path / "weights").write_bytes(content())
    with pytest.raises(UserError, match=words):
        read_tensors(tmp_path / "weights")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_of_any_program_is_named_and_not_run(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "weights").write_bytes(pickle.dumps({"a": Runs(tmp_path / "has run")}, protocol))
    with pytest.raises(UserError, match=r"holds \S+, an object that can run code") as refused:
        read_tensors(tmp_path / "weights")
    assert not (tmp_path / "has run").exists()
    assert "weights_only" not in str(refused.value)
