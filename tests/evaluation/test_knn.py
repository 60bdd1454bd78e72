"""The k-NN probe against brute force in float64, in one real run of the program and its search."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.classes import open_pair
from evaluation.knn import KnnProbeCommand, run_knn
from evaluation.knn_scores import classify
from evaluation.linear import LinearProbeCommand, run_linear
from pipeline.settings import UserError
from tests.evaluation.probes import brute_force, put_features
from tests.indexing.made import unit_vectors, write_rows


def test_ties_go_to_the_smallest_class_and_near_neighbours_outvote_many() -> None:
    label = np.array([2, 0, 1, 1])
    equal = np.full((1, 4), 0.5)
    assert classify(np.array([[0, 1, 2, 3]]), equal, label, 0.07).tolist() == [1]
    assert classify(np.array([[0, 1, 2]]), equal[:, :3], label, 0.07).tolist() == [0]
    near = np.array([[0.9, 0.6, 0.6, 0.6]])
    assert classify(np.array([[0, 1, 2, 3]]), near, label, 0.07).tolist() == [2]
    assert classify(np.array([[0, 1, 2, 3]]), near, label, 10.0).tolist() == [1]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """90 samples of three classes, and 20 of two of them, whose labels have other numbers."""
    root = tmp_path_factory.mktemp("sets")
    test = write_rows(root / "test", 20, classes=2, name="test{:05d}")
    manifest = json.loads((test / "dataset.json").read_text())
    (test / "dataset.json").write_text(json.dumps(manifest | {"classes": ["class 2", "class 1"]}))
    return write_rows(root / "train", 90), test


def test_scores_are_those_of_brute_force_and_100_for_a_separable_set(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair, out = open_pair(*sets), tmp_path / "out"
    assert pair.test.label.tolist() == [2, 1] * 10
    weights = [tmp_path / "mixed.pth", tmp_path / "plain.pth"]
    train, test = unit_vectors(90, 8, seed=1), unit_vectors(20, 8, seed=2)
    train[45:] = train[:45]  # of another class: ties at every rank
    means = np.eye(3, 8, dtype=np.float32)
    put_features(out, pair, weights[0], train, test)
    put_features(out, pair, weights[1], means[pair.train.label], means[pair.test.label])
    common = {"shards": sets[0], "shards_test": sets[1], "out": out, "workers": 0}
    assert run_knn(KnnProbeCommand.model_validate({**common, "weights": weights, "k": (1, 4, 20)})) == 0
    mixed, plain = (json.loads((out / f"knn-{path.stem}.json").read_text()) for path in weights)
    for k in (1, 4, 20):
        predicted = brute_force(train, pair.train.label, test, k, 0.07)
        assert mixed["scores"][f"top1@{k}"] == np.mean(np.array(predicted) == pair.test.label)
    assert set(plain["scores"].values()) == {1.0}
    assert plain["protocol"]["name"] == "knn, changed: k=1,4,20"
    assert sorted(path.name for path in out.iterdir()) == [
        ".made-by.json",
        "features",
        "knn-mixed.json",
        "knn-plain.json",
    ]
    printed = capsys.readouterr().out
    assert "frame-pooled, not an attentive probe" in printed
    assert "100.0     100.0     100.0  knn, changed: k=1,4,20" in printed

    linear = {**common, "weights": weights[1], "rates": (1e-4, 0.1), "steps": 40}
    assert run_linear(LinearProbeCommand.model_validate(linear)) == 0
    assert capsys.readouterr().out.count("features are up to date") == 2
    result = json.loads((out / "linear.json").read_text())
    assert result["scores"] == {"top1": 1.0}
    assert result["held_out"][str(result["rate"])] == max(result["held_out"].values()) == 1
    assert result["chosen_on"] == "9 held-out samples of the training set"
    assert (out / "knn-plain.json").is_file()


def replace(folder: Path, column: str, values: list[object]) -> None:
    """Replace a column of an index."""
    table = pq.read_table(folder / "index.parquet")
    field = table.schema.field(column)
    changed = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
    pq.write_table(changed, folder / "index.parquet")


def test_sets_that_do_not_fit_are_refused(sets: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"share 90 samples \(the first has the key key00000\)"):
        open_pair(sets[0], sets[0])
    with pytest.raises(UserError, match=r"has classes that no sample of --shards .* has: class 0; classes are matched"):
        open_pair(sets[1], sets[0])
    other = write_rows(tmp_path / "other", 4, name="other{}")
    replace(other, "source", ["1.jpg", "key00007.jpg", "2.jpg", "3.jpg"])
    with pytest.raises(UserError, match=r"share 1 samples \(the first has the input key00007.jpg\)"):
        open_pair(sets[0], other)
    replace(other, "label", [0, -1, 0, 0])
    with pytest.raises(UserError, match=r"--shards_test .* cannot be classified: 1 of its 4 samples have no class"):
        open_pair(sets[0], other)
    command = {"shards": sets[0], "shards_test": sets[1], "out": tmp_path / "out", "weights": "module:function"}
    with pytest.raises(UserError, match="has 90 samples; k = 91 needs as many"):
        run_knn(KnnProbeCommand.model_validate({**command, "k": (5, 91)}))
    with pytest.raises(UserError, match="a function gives patch features alone; knn needs CLS tokens"):
        run_knn(KnnProbeCommand.model_validate(command))
