import json
import shutil
from pathlib import Path

import numpy as np
import torch

from pipeline.reader.loader import Loader
from pipeline.reader.settings import MixSettings, ReaderSettings
from training.nonfinite import write_report
from training.step import StepResult


def test_the_report_names_samples_and_terms_and_its_plan_is_the_batch(clip_dataset: Path, tmp_path: Path) -> None:
    other = shutil.copytree(clip_dataset, tmp_path / "other")
    settings = ReaderSettings(shards=str(clip_dataset), mix=(MixSettings(shards=str(other)),))
    losses = {"koleo": torch.tensor(torch.inf), "cls_local": torch.tensor(1.0), "total": torch.tensor(torch.inf)}
    result = StepResult(losses, {}, {"head": torch.tensor(2.0), "pmm": torch.tensor(torch.nan)})
    with Loader(settings, 4, range(7, 8), rank=1, ranks=2) as loader:
        plan = next(loader).plan
        path = write_report(tmp_path, result, loader, plan, rank=1)
        report = json.loads(path.read_text())
        folders = [str(clip_dataset), str(other)]
        assert report["samples"] == [
            {"dataset": folders[row // 6], "key": str(loader.dataset.keys[row % 6])} for row in plan.rows.tolist()
        ]
        assert {sample["dataset"] for sample in report["samples"]} == set(folders)
    assert (report["step"], report["rank"]) == (7, 1)
    assert report["broken"] == ["loss koleo", "gradient of the pmm"]
    assert report["losses"] == {"koleo": "inf", "cls_local": "1.0", "total": "inf"}
    with np.load(path.with_suffix(".npz")) as arrays:
        assert np.array_equal(arrays["frames"], plan.frames)
        assert np.array_equal(arrays["masks"], plan.masks)
        assert np.array_equal(arrays["photometry.sigma"], plan.photometry.sigma)
        assert np.array_equal(arrays["boxes.left"], plan.boxes.left)
