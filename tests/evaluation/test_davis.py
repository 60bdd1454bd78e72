import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.command import score_command
from evaluation.davis import DAVIS, DavisScoring
from evaluation.frames import read_index_mask
from evaluation.pictures import save_mask
from evaluation.program import run_predictions
from pipeline.settings import UserError
from tests.evaluation import trees
from tests.evaluation.trees import T_CORE, moving_squares, score, store_turned, write_sequence
from tests.reference_data import read_arrays

pytestmark = pytest.mark.usefixtures("patch_filter")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sequences of five frames, fully annotated."""
    for name in ("one", "two"):
        frames, masks = moving_squares(5)
        write_sequence(tmp_path / "data", name, frames, dict(enumerate(masks)))
    return tmp_path / "data"


def evaluate(data: Path, /, **options: Any) -> dict[str, Any]:
    return trees.evaluate(DAVIS, data, **({"size": (96, 160)} | options))


def annotation(data: Path, sequence: str, number: int) -> Path:
    return data / "Annotations" / "480p" / sequence / f"{number:05d}.png"


def frame(data: Path, sequence: str, number: int) -> Path:
    return data / "JPEGImages" / "480p" / sequence / f"{number:05d}.jpg"


def test_the_recorded_clips_give_the_recorded_masks_and_scores(tmp_path: Path) -> None:
    arrays = read_arrays("eval_end_to_end")
    for name in ("alpha", "beta"):
        write_sequence(tmp_path / "data", name, arrays[f"rgb/{name}"], dict(enumerate(arrays[f"gt/{name}"])))
    result = evaluate(tmp_path / "data", size=(96, 176))
    for name in ("alpha", "beta"):
        files = sorted((tmp_path / "out" / "predictions" / name).iterdir())
        masks = np.stack([read_index_mask(file) for file in files])
        assert (masks != arrays[f"pred/{name}"]).mean() < 1e-4
    scores = result["scores"]
    np.testing.assert_allclose([scores[c] for c in ("J&F-Mean", "J-Mean", "F-Mean")], arrays["JF"], rtol=0, atol=1e-4)
    np.testing.assert_allclose([scores[c] for c in DavisScoring.columns], arrays["csv"], rtol=0, atol=6e-4)


def test_results_are_complete_repeatable_and_replaced_by_the_next_run(data: Path) -> None:
    before = sorted(data.rglob("*"))
    result, out = evaluate(data, report={"enabled": True}), data.parent / "out"
    assert sorted(data.rglob("*")) == before
    made = {"davis.json", "predictions", "sheets", "report.html", ".made-by.json"}
    assert {path.name for path in out.iterdir()} == made
    assert len(list((out / "predictions" / "two").iterdir())) == 5
    with Image.open(out / "sheets" / "one.png") as sheet:
        assert sheet.width >= 5 * 320
    assert result["sequences"]["one"]["frames_scored"] == 3
    assert set(result["sequences"]["one"]["details"]) == {"1", "2"}
    assert set(result["sequences"]["one"]["over_time"]) == {"00001", "00002", "00003"}
    assert 0 < result["scores"]["J&F-Mean"] < 1
    assert result["protocol"]["name"] == "t-core, changed: size=96,160"
    assert result["protocol"]["propagation"] == T_CORE
    assert result["protocol"]["scoring"] == {"boundary_tolerance": 0.008, "recall_threshold": 0.5, "decay_bins": 4}
    assert result["complete"]
    assert len(result["data"]["sha256"]) == 64

    repeated = evaluate(data)
    del result["seconds"], repeated["seconds"]
    assert repeated == result
    (out / "predictions" / "one" / "00099.png").touch()
    save_mask(annotation(data, "two", 2), np.zeros((96, 160), np.uint8))
    assert evaluate(data, sequences=("two",))["data"] != result["data"]
    assert [path.name for path in (out / "predictions").iterdir()] == ["two"]
    assert not (out / "sheets").exists()


def test_frames_without_a_mask_are_not_scored(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 4):
        annotation(data, "one", number).unlink()
    for number in (1, 2, 3, 4):
        annotation(data, "two", number).unlink()
    sequences = evaluate(data)["sequences"]
    assert (sequences["one"]["status"], sequences["one"]["frames_scored"]) == ("scored", 2)
    assert (sequences["two"]["status"], sequences["two"]["scores"]) == ("unscored", None)
    assert len(list((data.parent / "out" / "predictions" / "two").iterdir())) == 5
    assert evaluate(data, status=1, sequences=("two",))["scores"] is None
    assert "No score: none of 1 sequences could be scored." in capsys.readouterr().out


def test_objects_of_the_first_mask_count_and_clips_of_one_frame_or_of_another_size_are_taken(tmp_path: Path) -> None:
    frames, masks = moving_squares(4, ids=(2, 5))
    masks[0, :4] = 255
    masks[2, :4] = 9
    write_sequence(tmp_path / "data", "skipping", frames, dict(enumerate(masks)))
    write_sequence(tmp_path / "data", "still", frames[:1], {0: masks[0]})
    write_sequence(tmp_path / "data", "large", frames.repeat(2, 1).repeat(2, 2), dict(enumerate(moving_squares(4)[1])))
    sequences = evaluate(tmp_path / "data")["sequences"]
    assert set(sequences["skipping"]["details"]) == {"2", "5"}
    skipped = [f"the first mask has no object {one}: not counted" for one in (1, 3, 4)]
    late = "ids in the truth but not in the first mask: 9 (first in frame 00002); not counted"
    assert sequences["skipping"]["notes"] == [late, *skipped]
    prediction = read_index_mask(tmp_path / "out" / "predictions" / "skipping" / "00003.png")
    assert set(np.unique(prediction)) == {0, 2, 5}
    assert (sequences["still"]["status"], sequences["still"]["notes"]) == ("unscored", skipped)
    note = "size of the frames 320x192, of the masks 160x96; one is stretched to the other"
    assert (sequences["large"]["status"], sequences["large"]["notes"]) == ("scored", [note])


def test_names_orientation_and_hidden_files_do_not_change_the_scores(tmp_path: Path) -> None:
    frames, masks = moving_squares(12)
    write_sequence(tmp_path / "data", "one", frames, dict(enumerate(masks)))
    expected = evaluate(tmp_path / "data")
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".png")):
        for file in (tmp_path / "data" / folder / "480p" / "one").iterdir():
            if folder == "JPEGImages":
                store_turned(file)
            file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
            file.rename(file.with_name(f"{int(file.stem)}{suffix}"))
    result = evaluate(tmp_path / "data")
    assert result["scores"] == expected["scores"]
    assert result["sequences"]["one"]["notes"] == ["frames with an EXIF orientation: 12 (first 0); turned upright"]
    assert list(result["sequences"]["one"]["over_time"]) == [str(number) for number in range(1, 11)]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:300])


def test_notes_are_in_result_report_and_terminal_even_if_a_sequence_fails(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        frame(data, name, 2).unlink()
        annotation(data, name, 2).unlink()
    cut(frame(data, "one", 3))
    result = evaluate(data, status=1, report={"enabled": True})
    note = "gaps in the frame numbers: 1 (first between 00001 and 00003); taken as if no time had passed there"
    assert [one["notes"] for one in result["sequences"].values()] == [[note], [note]]
    assert capsys.readouterr().out.count(f"\n  note: {note}\n") == 2
    page = (data.parent / "out" / "report.html").read_text()
    assert [f"<li>{name}: {note}</li>" in page for name in ("one", "two")] == [True, True]


def test_bad_sequences_fail_by_name_and_stop_no_other(tmp_path: Path) -> None:
    data = tmp_path / "data"
    reasons = {
        "empty": "00000.png shows no object",
        "binary": "only void (255); masks of 0 and 255, as in DAVIS-2016",
        "first": "00000.png to start from",
        "size": "00003.png measures 159x96",
        "frame": "00002.jpg",
        "broken": "00003.jpg",
        "color": "00002.png has the mode RGB",
        "nothing": "no .jpg frames",
    }
    for name in (*reasons, "good"):
        frames, masks = moving_squares(5)
        write_sequence(data, name, frames, dict(enumerate(masks)))
    save_mask(annotation(data, "empty", 0), np.full((96, 160), 0, np.uint8))
    save_mask(annotation(data, "binary", 0), np.full((96, 160), 255, np.uint8))
    annotation(data, "first", 0).unlink()
    save_mask(annotation(data, "size", 3), np.zeros((96, 159), np.uint8))
    frame(data, "frame", 2).unlink()
    cut(frame(data, "broken", 3))
    Image.fromarray(np.zeros((96, 160, 3), np.uint8)).save(annotation(data, "color", 2))
    for number in range(5):
        frame(data, "nothing", number).unlink()

    result = evaluate(data, status=1)
    for name, reason in reasons.items():
        assert result["sequences"][name]["status"] == "failed"
        assert reason in result["sequences"][name]["reason"]
    assert result["scores"] == result["sequences"]["good"]["scores"]
    assert not result["complete"]
    assert [path.name for path in (tmp_path / "out" / "predictions").iterdir()] == ["good"]


def test_bad_options_stop_at_once_and_keep_an_earlier_result(data: Path) -> None:
    evaluate(data)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"split": "test"}, r"test\.txt; lists that exist there: val"),
        ({"sequences": ("three",)}, "--sequences three"),
        ({"size": (96, 161)}, "frames of 96x161 .* multiples of the patch size 16"),
        ({"data": Path("nowhere")}, "--data nowhere is not a folder"),
        ({"out": data / "JPEGImages" / "results"}, "inside the data folder"),
    ]
    for options, message in bad:
        with pytest.raises(UserError, match=message):
            evaluate(data, **options)
    assert (data.parent / "out" / "davis.json").exists()
    assert not (data / "JPEGImages" / "results").exists()


def test_a_real_sequence_is_scored(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(real_data / "davis")
    sequences = evaluate(tmp_path / "data", sequences=("car-shadow",), size=(112, 208))["sequences"]
    assert (sequences["car-shadow"]["status"], sequences["car-shadow"]["frames_scored"]) == ("scored", 38)


def test_scoring_predictions_gives_the_scores_of_their_run_and_names_bad_files(data: Path) -> None:
    evaluated = evaluate(data)
    scored = score(DAVIS, data)
    for key in ("scores", "sequences", "data"):
        assert scored[key] == evaluated[key]
    options: dict[str, Any] = {"data": data, "predictions": data.parent / "out" / "predictions"}
    assert run_predictions(DAVIS, score_command(DAVIS)(**options)) == 0
    predictions = data.parent / "out" / "predictions"
    with pytest.raises(UserError, match="choose another --out"):
        score(DAVIS, data, out=data.parent / "out")
    assert len(list((predictions / "one").iterdir())) == 5
    (predictions / "one" / "00002.png").unlink()
    save_mask(predictions / "two" / "00001.png", np.zeros((96, 159), np.uint8))
    sequences = score(DAVIS, data, status=1)["sequences"]
    assert "one/00002.png" in sequences["one"]["reason"]
    assert "two/00001.png measures 159x96, the truth 160x96" in sequences["two"]["reason"]


def test_predicted_ids_that_are_no_objects_are_noted_and_count_as_background(data: Path) -> None:
    predictions = data.parent / "predictions"
    shutil.copytree(data / "Annotations" / "480p", predictions)
    for number, value in ((1, 127), (2, 254), (3, 255)):
        mask = moving_squares(5)[1][number]
        mask[mask == 0] = value
        save_mask(predictions / "one" / f"{number:05d}.png", mask)
    result = score(DAVIS, data, predictions)
    assert result["scores"]["J&F-Mean"] == 1
    assert result["sequences"]["one"]["notes"] == [
        "ids in the predictions but not in the truth: 127, 254, 255 (first in frame 00001); counted as background"
    ]
    assert result["sequences"]["two"]["notes"] == []


def test_recorded_masks_of_osvos_score_as_the_official_scorer_says(real_data: Path, tmp_path: Path) -> None:
    davis = real_data / "davis"
    with (davis / "reference_scores_osvos.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = tuple(dict.fromkeys(row["sequence"] for row in rows))
    (tmp_path / "data").symlink_to(davis)
    result = score(DAVIS, tmp_path / "data", davis / "osvos_results", sequences=names)
    for row in rows:
        details = result["sequences"][row["sequence"]]["details"][row["object"]]
        for column in DavisScoring.columns[1:]:
            assert f"{details[column]:.4f}" == row[column], (row["sequence"], row["object"], column)
