import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.davis import COLUMNS, Davis, DavisCommand, DavisScoreCommand
from evaluation.frames import read_index_mask
from evaluation.pictures import save_mask
from evaluation.program import run_predictions, run_weights
from pipeline.settings import UserError
from tests.evaluation.trees import moving_squares, store_turned, use_patch_filter, write_sequence
from tests.reference_data import read_arrays


@pytest.fixture(autouse=True)
def _patch_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded patch filter takes the place of every backbone."""
    use_patch_filter(monkeypatch, read_arrays("eval_end_to_end")["patch_filter"])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two sequences of five frames, everything annotated."""
    for name in ("one", "two"):
        frames, masks = moving_squares(5)
        write_sequence(tmp_path / "data", name, frames, dict(enumerate(masks)))
    return tmp_path / "data"


def evaluate(tree: Path, *, status: int = 0, **options: Any) -> dict[str, Any]:
    out = tree.parent / "out"
    chosen: dict[str, Any] = {"data": tree, "weights": "none", "out": out, "size": (96, 160)} | options
    command = DavisCommand(**chosen)
    assert run_weights(Davis(command), command) == status
    result: dict[str, Any] = json.loads((out / "davis.json").read_text())
    return result


def annotation(data: Path, sequence: str, number: int) -> Path:
    return data / "Annotations" / "480p" / sequence / f"{number:05d}.png"


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
    np.testing.assert_allclose([scores[column] for column in COLUMNS], arrays["csv"], rtol=0, atol=6e-4)


def test_result_predictions_and_sheets_are_complete(data: Path) -> None:
    result, out = evaluate(data), data.parent / "out"
    made = {"davis.json", "predictions", "sheets", "report.html", ".made-by.json"}
    assert {path.name for path in out.iterdir()} == made
    assert len(list((out / "predictions" / "two").iterdir())) == 5
    with Image.open(out / "sheets" / "one.png") as sheet:
        assert sheet.width >= 5 * 320
    assert result["sequences"]["one"]["frames_scored"] == 3
    assert set(result["sequences"]["one"]["details"]) == {"1", "2"}
    assert set(result["sequences"]["one"]["over_time"]) == {"00001", "00002", "00003"}
    assert 0 < result["scores"]["J&F-Mean"] < 1
    assert result["protocol"]["propagation"] == {"n_context": 20, "top_k": 7, "radius": 20.0, "temperature": 0.7}
    assert result["protocol"]["scoring"] == {"boundary_tolerance": 0.008, "recall_threshold": 0.5, "decay_bins": 4}
    assert result["complete"]
    assert len(result["data"]["sha256"]) == 64


def test_same_input_same_result_and_another_mask_another_data_hash(data: Path) -> None:
    first, second = evaluate(data), evaluate(data)
    del first["seconds"], second["seconds"]
    assert first == second
    save_mask(annotation(data, "one", 2), np.zeros((96, 160), np.uint8))
    assert evaluate(data)["data"] != first["data"]


def test_frames_without_a_mask_are_not_scored(data: Path) -> None:
    for number in (1, 4):
        annotation(data, "one", number).unlink()
    for number in (1, 2, 3, 4):
        annotation(data, "two", number).unlink()
    sequences = evaluate(data)["sequences"]
    assert (sequences["one"]["status"], sequences["one"]["frames_scored"]) == ("scored", 2)
    assert (sequences["two"]["status"], sequences["two"]["scores"]) == ("unscored", None)
    assert len(list((data.parent / "out" / "predictions" / "two").iterdir())) == 5


def test_nothing_to_score_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2, 3, 4):
        annotation(data, "two", number).unlink()
    assert evaluate(data, status=1, sequences=("two",))["scores"] is None
    assert "No score: none of 1 sequences could be scored." in capsys.readouterr().out


def test_only_objects_of_the_first_mask_count(tmp_path: Path) -> None:
    frames, masks = moving_squares(4, ids=(2, 5))
    masks[0, :4] = 255
    masks[2, :4] = 9
    write_sequence(tmp_path / "data", "gaps", frames, dict(enumerate(masks)))
    sequence = evaluate(tmp_path / "data")["sequences"]["gaps"]
    assert set(sequence["details"]) == {"2", "5"}
    assert sequence["notes"] == [
        "ids in the truth but not in the first mask: 9 (first in frame 00002); not counted",
        *(f"the first mask has no object {one}: not counted" for one in (1, 3, 4)),
    ]
    prediction = read_index_mask(tmp_path / "out" / "predictions" / "gaps" / "00003.png")
    assert set(np.unique(prediction)) == {0, 2, 5}


def test_a_clip_of_one_frame_has_a_prediction_and_no_score(tmp_path: Path) -> None:
    frames, masks = moving_squares(1)
    write_sequence(tmp_path / "data", "still", frames, {0: masks[0]})
    assert evaluate(tmp_path / "data", status=1)["sequences"]["still"]["status"] == "unscored"


def test_frames_need_not_have_the_size_of_the_masks(tmp_path: Path) -> None:
    frames, masks = moving_squares(4)
    write_sequence(tmp_path / "data", "large", frames.repeat(2, 1).repeat(2, 2), dict(enumerate(masks)))
    sequence = evaluate(tmp_path / "data")["sequences"]["large"]
    assert sequence["status"] == "scored"
    assert sequence["notes"] == ["size of the frames 320x192, of the masks 160x96; one is stretched to the other"]


def test_names_orientation_and_hidden_files_do_not_change_the_scores(tmp_path: Path) -> None:
    frames, masks = moving_squares(12)
    write_sequence(tmp_path / "data", "one", frames, dict(enumerate(masks)))
    expected = evaluate(tmp_path / "data", report={"enabled": False})
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".png")):
        for file in (tmp_path / "data" / folder / "480p" / "one").iterdir():
            if folder == "JPEGImages":
                store_turned(file)
            file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
            file.rename(file.with_name(f"{int(file.stem)}{suffix}"))
    result = evaluate(tmp_path / "data", report={"enabled": False})
    assert result["scores"] == expected["scores"]
    assert result["sequences"]["one"]["notes"] == ["frames with an EXIF orientation: 12 (first 0); turned upright"]
    assert list(result["sequences"]["one"]["over_time"]) == [str(number) for number in range(1, 11)]


def test_notes_are_in_result_report_and_terminal_also_of_a_failed_sequence(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        for name in ("one", "two"):
            (data / kind / "480p" / name / f"00002.{suffix}").unlink()
    broken_frame(data)
    result = evaluate(data, status=1)
    note = "gaps in the frame numbers: 1 (first between 00001 and 00003); taken as if no time had passed there"
    assert [one["notes"] for one in result["sequences"].values()] == [[note], [note]]
    assert capsys.readouterr().out.count(f"\n  note: {note}\n") == 2
    page = (data.parent / "out" / "report.html").read_text()
    assert [f"<li>{name}: {note}</li>" in page for name in ("one", "two")] == [True, True]


def binary_masks(data: Path) -> None:
    for number in range(5):
        save_mask(annotation(data, "one", number), moving_squares(5, (255, 255))[1][number])


def empty_first_mask(data: Path) -> None:
    save_mask(annotation(data, "one", 0), np.full((96, 160), 255, np.uint8))


def missing_first_mask(data: Path) -> None:
    annotation(data, "one", 0).unlink()


def mask_of_another_size(data: Path) -> None:
    save_mask(annotation(data, "one", 3), np.zeros((96, 159), np.uint8))


def missing_frame(data: Path) -> None:
    (data / "JPEGImages" / "480p" / "one" / "00002.jpg").unlink()


def broken_frame(data: Path) -> None:
    file = data / "JPEGImages" / "480p" / "one" / "00003.jpg"
    file.write_bytes(file.read_bytes()[:300])


def color_mask(data: Path) -> None:
    Image.fromarray(np.zeros((96, 160, 3), np.uint8)).save(annotation(data, "one", 2))


def no_frames(data: Path) -> None:
    for file in (data / "JPEGImages" / "480p" / "one").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (empty_first_mask, "00000.png shows no object"),
        (binary_masks, "only void (255); masks of 0 and 255, as in DAVIS-2016"),
        (missing_first_mask, "00000.png to start from"),
        (mask_of_another_size, "00003.png measures 159x96"),
        (missing_frame, "00002.jpg"),
        (broken_frame, "00003.jpg"),
        (color_mask, "00002.png has the mode RGB"),
        (no_frames, "no .jpg frames"),
    ],
)
def test_a_bad_sequence_fails_by_name_and_stops_no_other(data: Path, damage: Any, named: str) -> None:
    damage(data)
    result = evaluate(data, status=1)
    one, two = result["sequences"]["one"], result["sequences"]["two"]
    assert (one["status"], two["status"]) == ("failed", "scored")
    assert named in one["reason"]
    assert result["scores"] == two["scores"]
    assert not result["complete"]
    assert [path.name for path in (data.parent / "out" / "predictions").iterdir()] == ["two"]


def test_predictions_of_an_earlier_run_do_not_stay(data: Path) -> None:
    evaluate(data)
    (data.parent / "out" / "predictions" / "one" / "00099.png").touch()
    evaluate(data, sequences=("two",))
    out = data.parent / "out"
    assert [path.name for folder in ("predictions", "sheets") for path in (out / folder).iterdir()] == [
        "two",
        "two.png",
    ]


def test_nothing_is_written_into_the_data_folder(data: Path) -> None:
    before = sorted(data.rglob("*"))
    evaluate(data)
    with pytest.raises(UserError, match="inside the data folder"):
        evaluate(data, out=data / "JPEGImages" / "results")
    assert sorted(data.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, r"test\.txt; lists that exist there: val"),
        ({"sequences": ("three",)}, "--sequences three"),
        ({"size": (96, 161)}, "frames of 96x161 .* multiples of the patch size 16"),
        ({"data": Path("nowhere")}, "--data nowhere is not a folder"),
    ],
)
def test_bad_options_stop_at_once_and_keep_an_earlier_result(data: Path, options: dict[str, Any], message: str) -> None:
    evaluate(data)
    with pytest.raises(UserError, match=message):
        evaluate(data, **options)
    assert (data.parent / "out" / "davis.json").exists()


def test_a_real_sequence_is_scored(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(real_data / "davis")
    sequences = evaluate(tmp_path / "data", sequences=("car-shadow",))["sequences"]
    assert (sequences["car-shadow"]["status"], sequences["car-shadow"]["frames_scored"]) == ("scored", 38)


def score(tree: Path, predictions: Path, *, status: int = 0, **options: Any) -> dict[str, Any]:
    out = tree.parent / "scored"
    command = DavisScoreCommand(data=tree, predictions=predictions, out=out, **options)
    assert run_predictions(Davis(command), command) == status
    result: dict[str, Any] = json.loads((out / "davis.json").read_text())
    return result


def test_scoring_what_was_predicted_gives_the_scores_of_the_prediction(data: Path) -> None:
    evaluated = evaluate(data)
    scored = score(data, data.parent / "out" / "predictions")
    assert scored["scores"] == evaluated["scores"]
    assert scored["sequences"] == evaluated["sequences"]
    assert scored["data"] == evaluated["data"]


def test_masks_on_disk_that_miss_or_do_not_fit_fail_by_name(data: Path) -> None:
    evaluate(data)
    predictions = data.parent / "out" / "predictions"
    (predictions / "one" / "00002.png").unlink()
    save_mask(predictions / "two" / "00001.png", np.zeros((96, 159), np.uint8))
    sequences = score(data, predictions, status=1)["sequences"]
    assert "one/00002.png" in sequences["one"]["reason"]
    assert "two/00001.png measures 159x96, the truth 160x96" in sequences["two"]["reason"]


def test_predicted_ids_that_are_no_objects_are_noted_and_count_as_background(data: Path) -> None:
    predictions = data.parent / "predictions"
    shutil.copytree(data / "Annotations" / "480p", predictions)
    for number, value in ((1, 127), (2, 254), (3, 255)):
        mask = moving_squares(5)[1][number]
        mask[mask == 0] = value
        save_mask(predictions / "one" / f"{number:05d}.png", mask)
    result = score(data, predictions, report={"enabled": False})
    assert result["scores"]["J&F-Mean"] == 1
    assert result["sequences"]["one"]["notes"] == [
        "ids in the predictions but not in the truth: 127, 254, 255 (first in frame 00001); counted as background"
    ]
    assert result["sequences"]["two"]["notes"] == []


def test_scoring_never_removes_the_predictions(data: Path) -> None:
    evaluate(data)
    command = DavisScoreCommand(data=data, predictions=data.parent / "out" / "predictions", out=data.parent / "out")
    with pytest.raises(UserError, match="choose another --out"):
        run_predictions(Davis(command), command)
    assert len(list((data.parent / "out" / "predictions" / "one").iterdir())) == 5


def test_recorded_masks_of_osvos_score_as_the_official_scorer_says(real_data: Path, tmp_path: Path) -> None:
    davis = real_data / "davis"
    with (davis / "reference_scores_osvos.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = tuple(dict.fromkeys(row["sequence"] for row in rows))
    (tmp_path / "data").symlink_to(davis)
    options: dict[str, Any] = {"sequences": names, "report": {"enabled": False}}
    result = score(tmp_path / "data", davis / "osvos_results", **options)
    for row in rows:
        details = result["sequences"][row["sequence"]]["details"][row["object"]]
        for column in COLUMNS[1:]:
            assert f"{details[column]:.4f}" == row[column], (row["sequence"], row["object"], column)
