from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexing.cross import NEAREST, CrossCommand, main
from indexing.job import SearchSettings
from indexing.store import write_features
from pipeline.dataset import ShardDataset
from pipeline.settings import UserError
from pipeline.storage import open_storage
from tests.indexing.made import unit_vectors, write_rows

FEW = {"base": 300, "queries": 70}


def command(**options: Any) -> CrossCommand:
    return CrossCommand.model_validate(options)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Features with duplicates; some queries are also in the base."""
    vectors = unit_vectors(300, 32)[np.random.default_rng(0).integers(0, 300, 300)]
    for name, rows in FEW.items():
        keys = ShardDataset(write_rows(tmp_path / f"{name}-shards", rows)).keys
        storage = open_storage(str(tmp_path / name))
        write_features(storage, keys, [vectors[-rows:].astype(np.float16)], 32, {"dataset_hash": name})
    return {name: tmp_path / name for name in FEW}


@pytest.mark.parametrize("search", [SearchSettings(), SearchSettings(block=33)])
def test_neighbours_in_another_set_are_those_of_a_full_sort(
    search: SearchSettings, folders: dict[str, Path], tmp_path: Path
) -> None:
    main(command(**folders, out=tmp_path / "out", search=search))
    vectors = unit_vectors(300, 32)[np.random.default_rng(0).integers(0, 300, 300)].astype(np.float64)
    similarity = vectors[-70:] @ vectors.T
    expected = np.argsort(-similarity, axis=1, kind="stable")[:, :20]
    with np.load(tmp_path / "out" / NEAREST) as nearest:
        np.testing.assert_array_equal(nearest["rows"], expected)
        np.testing.assert_array_equal(nearest["similarity"], np.take_along_axis(similarity, expected, 1))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [NEAREST]


def test_features_that_cannot_be_compared_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this search is exact"):
        command(**folders, out=tmp_path / "out", search=SearchSettings(approximate=True))
    with pytest.raises(UserError, match=r"k = 301 needs at least 301 samples; .*base has 300"):
        main(command(**folders, out=tmp_path / "out", k=301))
    with pytest.raises(UserError, match=r"other has no features\.parquet: write it with"):
        main(command(base=folders["base"], queries=tmp_path / "other", out=tmp_path / "out"))
    keys = ShardDataset(tmp_path / "queries-shards").keys
    narrow = unit_vectors(70, 16).astype(np.float16)
    write_features(open_storage(str(tmp_path / "narrow")), keys, [narrow], 16, {"dataset_hash": "narrow"})
    with pytest.raises(UserError, match="have different widths: 16 and 32"):
        main(command(base=folders["base"], queries=tmp_path / "narrow", out=tmp_path / "out"))
