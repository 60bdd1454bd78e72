from pathlib import Path

import pytest

from pipeline import gpus
from pipeline.gpus import cpu_requested, has_nvidia_gpu, refuse_unusable_gpu
from pipeline.settings import UserError


@pytest.mark.parametrize("visible", ["", "-1", "-1,-1", "NoDevFiles", "-1,0"])
def test_hidden_gpus_mean_the_cpu(visible: str) -> None:
    assert cpu_requested({"CUDA_VISIBLE_DEVICES": visible})


@pytest.mark.parametrize("visible", ["0", "1,0", "GPU-8932f937-d72c", "MIG-8932f937", " 2", "0,-1"])
def test_chosen_gpus_do_not(visible: str) -> None:
    assert not cpu_requested({"CUDA_VISIBLE_DEVICES": visible})


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("False", False), ("", False)])
def test_a_launch_file_may_ask_for_the_cpu(value: str, expected: bool) -> None:
    assert cpu_requested({"ACCELERATE_USE_CPU": value}) is expected


def test_device_files_of_gpus_are_told_from_those_of_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-modeset"):
        (tmp_path / name).touch()
    assert not has_nvidia_gpu()
    (tmp_path / "nvidia3").touch()
    assert has_nvidia_gpu()


@pytest.mark.parametrize(
    ("program", "expected"),
    [("echo 'GPU 0: NVIDIA A100 (UUID: GPU-1)'", True), ("echo 'No devices found.'", False), ("exit 9", False)],
)
def test_nvidia_smi_is_asked(program: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    assert has_nvidia_gpu() is expected


def test_an_unusable_gpu_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    (tmp_path / "nvidia0").touch()
    with pytest.raises(UserError, match=r"NVIDIA GPU that FAISS cannot use \(old\): .*CUDA_VISIBLE_DEVICES=-1 to"):
        refuse_unusable_gpu("FAISS", {}, "old")
    refuse_unusable_gpu("FAISS", {"CUDA_VISIBLE_DEVICES": ""})
