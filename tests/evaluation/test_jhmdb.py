import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import ExifTags, Image

from benchmarks.demo_data import casting, trees
from evaluation.jhmdb import Jhmdb, JhmdbCommand, JhmdbScoreCommand, read_joints
from evaluation.program import run_predictions, run_weights
from pipeline.settings import UserError
from tests.evaluation.trees import moving_squares, store_turned, use_patch_filter, write_jhmdb_clip
from tests.reference_data import read_arrays


@pytest.fixture(autouse=True)
def _patch_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    use_patch_filter(monkeypatch, read_arrays("eval_end_to_end")["patch_filter"])


def joints(num_frames: int) -> NDArray[np.float64]:
    """(2, 15, T) one-based: a 3 x 5 lattice on the frames of `moving_squares`, going with the squares."""
    x, y = np.meshgrid(np.linspace(20, 60, 3), np.linspace(10, 80, 5))
    start = np.stack([x.ravel(), y.ravel()])
    return np.stack([start + np.array([[4.0 * number], [0.0]]) for number in range(num_frames)], -1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("catch/one", "walk/two"):
        write_jhmdb_clip(tmp_path / "data", name, moving_squares(4)[0], joints(4))
    return tmp_path / "data"


def annotation(data: Path, name: str) -> Path:
    return data / "joint_positions" / name / "joint_positions.mat"


def evaluate(data: Path, *, status: int = 0, **options: Any) -> dict[str, Any]:
    out = data.parent / "out"
    chosen: dict[str, Any] = {"data": data, "weights": "none", "out": out, "size": (96, 160)}
    command = JhmdbCommand(**(chosen | options))
    assert run_weights(Jhmdb(command), command) == status
    result: dict[str, Any] = json.loads((out / "jhmdb.json").read_text())
    return result


def score(data: Path, *, status: int = 0, **options: Any) -> dict[str, Any]:
    command = JhmdbScoreCommand(
        data=data, predictions=data.parent / "out" / "predictions", out=data.parent / "scored", **options
    )
    assert run_predictions(Jhmdb(command), command) == status
    result: dict[str, Any] = json.loads((data.parent / "scored" / "jhmdb.json").read_text())
    return result


def test_positions_in_the_files_count_from_one(data: Path) -> None:
    np.testing.assert_allclose(read_joints(annotation(data, "catch/one")), joints(4) - 1)


def test_joints_are_found_where_they_were_whatever_the_shape_of_the_cells(data: Path) -> None:
    evaluate(data, size=(96, 320))  # cells of 16 x 8 pixels
    result = np.loadtxt(data.parent / "out" / "predictions" / "catch" / "one" / "00001.txt").T
    distance = np.abs(result - (joints(4)[:, :, 0] - 1))
    assert distance[0].max() <= 8
    assert distance[1, 3:].max() <= 16  # the first row of joints lies at the border, where labels are drawn shifted


def test_joints_are_propagated_and_scored_without_the_first_frame(data: Path) -> None:
    result = evaluate(data)
    assert list(result["sequences"]) == ["catch/one", "walk/two"]
    assert result["sequences"]["walk/two"]["frames_scored"] == 3
    assert 0 < result["scores"]["PCK@0.1"] < result["scores"]["PCK@0.2"] <= 1
    assert len(result["details"]) == 15
    assert result["protocol"]["scoring"] == {"thresholds": [0.1, 0.2], "box_scale": 0.6}
    found = np.loadtxt(data.parent / "out" / "predictions" / "catch" / "one" / "00003.txt")
    assert found.shape == (15, 2)


def test_scoring_the_predicted_joints_gives_their_scores_and_the_truth_all(data: Path) -> None:
    evaluated = evaluate(data)
    assert score(data)["scores"] == pytest.approx(evaluated["scores"])
    for name in ("catch/one", "walk/two"):
        for number, file in enumerate(sorted((data.parent / "out" / "predictions" / name).iterdir())):
            np.savetxt(file, joints(4)[:, :, number].T - 1)
    assert score(data)["scores"] == {"PCK@0.1": 1.0, "PCK@0.2": 1.0}


def test_joints_on_disk_that_miss_or_are_none_fail_by_name(data: Path) -> None:
    evaluate(data)
    predictions = data.parent / "out" / "predictions"
    (predictions / "catch" / "one" / "00002.txt").unlink()
    (predictions / "walk" / "two" / "00003.txt").write_text("1 2\n3 4\n")
    sequences = score(data, status=1)["sequences"]
    assert "catch/one/00002.txt" in sequences["catch/one"]["reason"]
    assert "walk/two/00003.txt must have 15 lines" in sequences["walk/two"]["reason"]


def test_a_joint_outside_the_first_frame_is_lost_and_said(data: Path) -> None:
    moved = joints(4)
    moved[:, 5] = -300
    scipy.io.savemat(annotation(data, "catch/one"), {"pos_img": moved})
    result = evaluate(data, sequences=("catch/one",))
    sequence = result["sequences"]["catch/one"]
    assert sequence["notes"] == ["lost in some frames: right hip"]
    assert "right hip" not in sequence["details"]
    assert result["details"]["right hip"] == {"PCK@0.1": None, "PCK@0.2": None}


def test_frames_beyond_the_annotation_are_not_scored(data: Path) -> None:
    scipy.io.savemat(annotation(data, "catch/one"), {"pos_img": joints(3)})
    scipy.io.savemat(annotation(data, "walk/two"), {"pos_img": joints(1)})
    sequences = evaluate(data)["sequences"]
    assert sequences["catch/one"]["frames_scored"] == 2
    assert sequences["walk/two"]["status"] == "unscored"
    assert sequences["walk/two"]["reason"] == "only the first frame has joints"


def test_names_orientation_and_hidden_files_do_not_change_the_scores(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_jhmdb_clip(data, "catch/one", moving_squares(11)[0], joints(11))
    expected = evaluate(data, report={"enabled": False})
    for file in (data / "Rename_Images" / "catch/one").iterdir():
        store_turned(file)
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
        file.rename(file.with_name(f"{int(file.stem)}.png"))
    (data / "splits" / "._catch_test_split1.txt").write_bytes(b"\0\5\26\7")
    (data / "splits" / "catch_test_split1.txt").write_text("\ufeffone.avi 2\n", "utf-8")
    result = evaluate(data, report={"enabled": False})
    assert result["scores"] == expected["scores"]
    assert result["sequences"]["catch/one"]["notes"] == [
        "frames with an EXIF orientation: 11 (first 1); turned upright"
    ]


def test_frames_are_not_turned_where_the_joints_fit_their_pixels(data: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for file in (data / "Rename_Images" / "catch/one").iterdir():
        with Image.open(file) as image:
            image.save(file, exif=exif)
    scipy.io.savemat(annotation(data, "catch/one"), {"pos_img": np.add(joints(4), [[[80]], [[0]]])})
    clip = Jhmdb(JhmdbScoreCommand(data=data, predictions=data)).open("catch/one")
    assert (clip.size, clip.frames[0].orientation) == ((96, 160), 1)
    assert [note.split(";")[1][:11] for note in clip.notes] == [" not turned"]


def test_frames_of_another_size_are_noted(data: Path) -> None:
    file = data / "Rename_Images" / "catch/one" / "00003.png"
    with Image.open(file) as image:
        image.resize((80, 48)).save(file)
    notes = evaluate(data, sequences=("catch/one",), report={"enabled": False})["sequences"]["catch/one"]["notes"]
    assert [note.split(";")[0] for note in notes] == [
        "frames of another size than the first one's 160x96: 1 (first 00003, 80x48)"
    ]


def test_nothing_to_score_ends_with_status_1(data: Path) -> None:
    for name in ("catch/one", "walk/two"):
        scipy.io.savemat(annotation(data, name), {"pos_img": joints(1)})
    assert evaluate(data, status=1)["scores"] is None
    assert score(data, status=1)["scores"] is None


def test_frames_are_stretched_to_the_recorded_size() -> None:
    default = JhmdbCommand(data=Path(), weights=(Path(),), out=Path())
    assert default.size == tuple(read_arrays("eval_datasets")["jhmdb/network_hw"])


def test_thresholds_are_a_setting(data: Path) -> None:
    assert list(evaluate(data, scoring={"thresholds": (0.05, 0.5)})["scores"]) == ["PCK@0.05", "PCK@0.5"]


def test_only_the_test_set_of_the_split_is_taken_and_all_if_asked(data: Path) -> None:
    with pytest.raises(UserError, match="no clips of the split 2"):
        evaluate(data, split="2")
    (data / "splits" / "walk_test_split1.txt").write_text("two.avi 1\n")
    assert list(evaluate(data)["sequences"]) == ["catch/one"]
    assert list(evaluate(data, split="all")["sequences"]) == ["catch/one", "walk/two"]


def no_annotation(data: Path) -> None:
    annotation(data, "catch/one").unlink()


def broken_annotation(data: Path) -> None:
    annotation(data, "catch/one").write_bytes(b"MATLAB 5.0 and nothing more")


def damaged_annotation(data: Path) -> None:
    path = annotation(data, "catch/one")
    scipy.io.savemat(path, {"pos_img": joints(4)}, do_compression=True)
    path.write_bytes(path.read_bytes()[:160] + bytes(20) + path.read_bytes()[180:])


def other_joints(data: Path) -> None:
    scipy.io.savemat(annotation(data, "catch/one"), {"pos_img": np.zeros((2, 14, 4))})


def lost_joint(data: Path) -> None:
    moved = joints(4)
    moved[0, 2, 1] = np.nan
    scipy.io.savemat(annotation(data, "catch/one"), {"pos_img": moved})


def missing_frame(data: Path) -> None:
    (data / "Rename_Images" / "catch/one" / "00002.png").unlink()


def missing_end(data: Path) -> None:
    (data / "Rename_Images" / "catch/one" / "00004.png").unlink()


def unreadable_frame(data: Path) -> None:
    (data / "Rename_Images" / "catch/one" / "00003.png").write_bytes(b"nothing")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (no_annotation, "catch/one/joint_positions.mat: No such file"),
        (broken_annotation, "joint_positions.mat is no MATLAB file"),
        (damaged_annotation, "joint_positions.mat is no MATLAB file"),
        (other_joints, "has the shape (2, 14, 4); it must be 2 x 15 x frames"),
        (lost_joint, "has no finite position for the face in frame 2; every joint must have one"),
        (missing_frame, "frame 2 is missing"),
        (missing_end, "has 3 frames"),
        (unreadable_frame, "00003.png"),
    ],
)
def test_a_bad_clip_fails_by_name_and_stops_no_other(data: Path, damage: Any, named: str) -> None:
    damage(data)
    result = evaluate(data, status=1)
    assert named in result["sequences"]["catch/one"]["reason"]
    assert result["sequences"]["walk/two"]["status"] == "scored"


def test_joints_of_a_real_file_are_read(real_data: Path) -> None:
    name = "catch/Goal_Keeping_Tips_catch_f_cm_np1_fr_med_2"
    result = read_joints(real_data / "jhmdb" / "joint_positions" / name / "joint_positions.mat")
    assert result.shape == (2, 15, 40)
    assert result[:, 0, 0].tolist() == [285.5, 105.5]


def test_a_real_clip_is_scored(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(real_data / "jhmdb")
    result = evaluate(tmp_path / "data", split="all", report={"enabled": False}, size=(160, 160))
    (sequence,) = result["sequences"].values()
    assert sequence["frames_scored"] == 39
    assert 0 < result["scores"]["PCK@0.2"] < 1


def test_clips_of_the_demo_data_are_scored(tmp_path: Path) -> None:
    scene = casting.pose_scene([0, 0], casting.POSE_MOVES["walk"], 1)
    times = casting.HELD_OUT_TIMES[:3]
    trees.write_jhmdb(tmp_path / "data", "walk", "demo", scene, times, casting.PERSON_SHARE)
    result = evaluate(tmp_path / "data", sequences=("walk/demo",))
    assert result["sequences"]["walk/demo"]["frames_scored"] == 2
    assert len(result["sequences"]["walk/demo"]["details"]) == 15
