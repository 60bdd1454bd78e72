import pytest
import torch

from pipeline import gpus
from pipeline.settings import UserError
from training.backbone.device import default_device


def test_a_gpu_that_pytorch_cannot_use_is_refused(unusable_gpu: None) -> None:
    with pytest.raises(UserError, match=r"has an NVIDIA GPU that PyTorch .* cannot use \(\w.*\): update the driver"):
        default_device({})


def test_the_cpu_is_taken_where_it_is_requested_or_there_is_no_gpu(
    unusable_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_device({"CUDA_VISIBLE_DEVICES": "-1"}) == "cpu"
    monkeypatch.setattr(gpus, "has_nvidia_gpu", lambda: False)
    assert default_device({}) == "cpu"


def test_a_gpu_is_taken_where_pytorch_finds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device({}) == "cuda"
