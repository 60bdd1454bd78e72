from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import ExifTags, Image

from benchmarks.demo_data import casting
from benchmarks.demo_data import trees as demo_trees
from evaluation.jhmdb import JHMDB, Jhmdb, JointPropagation, read_joints
from pipeline.settings import UserError
from tests.evaluation import trees
from tests.evaluation.trees import moving_squares, score, store_turned, write_jhmdb_clip
from tests.reference_data import read_arrays

pytestmark = pytest.mark.usefixtures("patch_filter")


def joints(num_frames: int) -> NDArray[np.float64]:
    """(2, 15, T) one-based: a 3 x 5 lattice on the frames of `moving_squares`, moving with the squares."""
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


def evaluate(data: Path, **options: Any) -> dict[str, Any]:
    return trees.evaluate(JHMDB, data, **({"size": (96, 160)} | options))


def test_joints_are_found_where_they_were_whatever_the_shape_of_the_cells(data: Path) -> None:
    np.testing.assert_allclose(read_joints(annotation(data, "catch/one")), joints(4) - 1)  # files count from one
    evaluate(data, size=(96, 320))  # cells of 16 x 8 pixels
    result = np.loadtxt(data.parent / "out" / "predictions" / "catch" / "one" / "00001.txt").T
    distance = np.abs(result - (joints(4)[:, :, 0] - 1))
    assert distance[0].max() <= 8
    assert distance[1, 3:].max() <= 16  # the first row of joints is at the border, where labels are drawn shifted


def test_joints_are_scored_without_the_first_frame_and_from_disk_as_in_their_run(data: Path) -> None:
    result = evaluate(data)
    assert list(result["sequences"]) == ["catch/one", "walk/two"]
    assert result["sequences"]["walk/two"]["frames_scored"] == 3
    assert 0 < result["scores"]["PCK@0.1"] < result["scores"]["PCK@0.2"] <= 1
    assert len(result["details"]) == 15
    assert result["protocol"]["scoring"] == {"thresholds": [0.1, 0.2], "box_scale": 0.6}
    predictions = data.parent / "out" / "predictions"
    assert np.loadtxt(predictions / "catch" / "one" / "00003.txt").shape == (15, 2)

    assert score(JHMDB, data)["scores"] == pytest.approx(result["scores"])
    assert list(score(JHMDB, data, scoring={"thresholds": (0.05, 0.5)})["scores"]) == ["PCK@0.05", "PCK@0.5"]
    for name in ("catch/one", "walk/two"):
        for number, file in enumerate(sorted((predictions / name).iterdir())):
            np.savetxt(file, joints(4)[:, :, number].T - 1)
    assert score(JHMDB, data)["scores"] == {"PCK@0.1": 1.0, "PCK@0.2": 1.0}

    (predictions / "catch" / "one" / "00002.txt").unlink()
    (predictions / "walk" / "two" / "00003.txt").write_text("1 2\n3 4\n")
    sequences = score(JHMDB, data, status=1)["sequences"]
    assert "catch/one/00002.txt" in sequences["catch/one"]["reason"]
    assert "walk/two/00003.txt must have 15 lines" in sequences["walk/two"]["reason"]


def test_a_joint_outside_the_first_frame_is_lost_and_noted(data: Path) -> None:
    moved = joints(4)
    moved[:, 5] = -300
    scipy.io.savemat(annotation(data, "catch/one"), {"pos_img": moved})
    scipy.io.savemat(annotation(data, "walk/two"), {"pos_img": np.full((2, 15, 4), -300.0)})
    result = evaluate(data)
    sequence = result["sequences"]["catch/one"]
    assert sequence["notes"] == ["lost in some frames: right hip"]
    assert "right hip" not in sequence["details"]
    assert result["details"]["right hip"] == {"PCK@0.1": None, "PCK@0.2": None}
    assert result["sequences"]["walk/two"]["status"] == "unscored"
    assert result["sequences"]["walk/two"]["reason"] == "all joints are lost from the first frame on"


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
    expected = evaluate(data)
    for file in (data / "Rename_Images" / "catch/one").iterdir():
        store_turned(file)
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
        file.rename(file.with_name(f"{int(file.stem)}.png"))
    (data / "splits" / "._catch_test_split1.txt").write_bytes(b"\0\5\26\7")
    (data / "splits" / "catch_test_split1.txt").write_text("\ufeffone.avi 2\n", "utf-8")
    result = evaluate(data)
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
    clip = Jhmdb(data=data).open("catch/one")
    assert (clip.frames[0].size, clip.frames[0].orientation) == ((96, 160), 1)
    assert [note.split(";")[1][:11] for note in clip.notes] == [" not turned"]


def test_frames_are_stretched_to_the_recorded_size() -> None:
    assert JointPropagation().size == tuple(read_arrays("eval_datasets")["jhmdb/network_hw"])


def test_only_the_test_set_of_the_split_is_taken_or_all_clips(data: Path) -> None:
    with pytest.raises(UserError, match="no clips of the split 2"):
        Jhmdb(data=data, split="2").names()
    (data / "splits" / "walk_test_split1.txt").write_text("two.avi 1\n")
    assert Jhmdb(data=data).names() == ["catch/one"]
    assert Jhmdb(data=data, split="all").names() == ["catch/one", "walk/two"]


def test_bad_clips_fail_by_name_and_stop_no_other(data: Path) -> None:
    reasons = {
        "x/absent": "x/absent/joint_positions.mat: No such file",
        "x/short": "joint_positions.mat is not a MATLAB file",
        "x/damaged": "joint_positions.mat is not a MATLAB file",
        "x/other": "has the shape (2, 14, 4); it must be 2 x 15 x frames",
        "x/nan": "has no finite position for the face in frame 2; every joint must have one",
        "x/gap": "frame 2 is missing",
        "x/end": "has 3 frames",
        "x/unreadable": "00003.png",
    }
    for name in reasons:
        write_jhmdb_clip(data, name, moving_squares(4)[0], joints(4))
    annotation(data, "x/absent").unlink()
    annotation(data, "x/short").write_bytes(b"MATLAB 5.0 and nothing more")
    path = annotation(data, "x/damaged")
    scipy.io.savemat(path, {"pos_img": joints(4)}, do_compression=True)
    path.write_bytes(path.read_bytes()[:160] + bytes(20) + path.read_bytes()[180:])
    scipy.io.savemat(annotation(data, "x/other"), {"pos_img": np.zeros((2, 14, 4))})
    moved = joints(4)
    moved[0, 2, 1] = np.nan
    scipy.io.savemat(annotation(data, "x/nan"), {"pos_img": moved})
    frames = data / "Rename_Images"
    (frames / "x/gap" / "00002.png").unlink()
    (frames / "x/end" / "00004.png").unlink()
    (frames / "x/unreadable" / "00003.png").write_bytes(b"nothing")
    sequences = evaluate(data, status=1)["sequences"]
    for name, reason in reasons.items():
        assert reason in sequences[name]["reason"]
    assert sequences["walk/two"]["status"] == "scored"


def test_a_real_clip_is_scored(real_data: Path, tmp_path: Path) -> None:
    name = "catch/Goal_Keeping_Tips_catch_f_cm_np1_fr_med_2"
    positions = read_joints(annotation(real_data / "jhmdb", name))
    assert positions.shape == (2, 15, 40)
    assert positions[:, 0, 0].tolist() == [285.5, 105.5]
    (tmp_path / "data").symlink_to(real_data / "jhmdb")
    result = evaluate(tmp_path / "data", split="all", size=(160, 160))
    (sequence,) = result["sequences"].values()
    assert sequence["frames_scored"] == 39
    assert 0 < result["scores"]["PCK@0.2"] < 1


def test_clips_of_the_demo_data_are_scored(tmp_path: Path) -> None:
    scene = casting.pose_scene([0, 0], casting.POSE_MOVES["walk"], 1)
    times = casting.HELD_OUT_TIMES[:3]
    demo_trees.write_jhmdb(tmp_path / "data", "walk", "demo", scene, times, casting.PERSON_SHARE)
    result = evaluate(tmp_path / "data", sequences=("walk/demo",))
    assert result["sequences"]["walk/demo"]["frames_scored"] == 2
    assert len(result["sequences"]["walk/demo"]["details"]) == 15
