"""Copies of the datasets that can be damaged."""

import shutil
from pathlib import Path

import pytest

from tests.pipeline.verify.damage import Copy


@pytest.fixture
def clips(clip_dataset: Path, tmp_path: Path) -> Copy:
    return Copy(Path(shutil.copytree(clip_dataset, tmp_path / "copy")))


@pytest.fixture
def images(image_dataset: Path, tmp_path: Path) -> Copy:
    return Copy(Path(shutil.copytree(image_dataset, tmp_path / "copy")))


@pytest.fixture
def triplets(triplet_dataset: Path, tmp_path: Path) -> Copy:
    return Copy(Path(shutil.copytree(triplet_dataset, tmp_path / "copy")))
