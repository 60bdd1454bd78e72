import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.demo_data import casting
from benchmarks.demo_data import trees as demo_trees
from evaluation.vip import VIP, network_size
from evaluation.vip_scores import confusion, mean_iou
from tests.evaluation import trees
from tests.evaluation.trees import T_CORE, moving_squares, score, write_vip_clip
from tests.reference_data import read_arrays

pytestmark = pytest.mark.usefixtures("patch_filter")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clips of four frames; the parts of the second one have gaps between them."""
    for name, ids in (("videos1", (1, 2)), ("videos2", (4, 17))):
        frames, masks = moving_squares(4, ids)
        write_vip_clip(tmp_path / "data", name, frames, dict(enumerate(masks)))
    return tmp_path / "data"


def mask_file(data: Path, clip: str, number: int) -> Path:
    return data / "Annotations" / "Category_ids" / clip / f"{number + 1:012d}.png"


def evaluate(data: Path, **options: Any) -> dict[str, Any]:
    return trees.evaluate(VIP, data, **({"long_side": 160, "side_multiple": 32} | options))


def test_network_sizes_are_the_recorded_ones() -> None:
    arrays = read_arrays("eval_datasets")
    for case in ("vip", "vip_gap"):
        frame = arrays[f"{case}/decoded_frame0_rgb"].shape
        size = network_size((frame[0], frame[1]), int(arrays[f"{case}/img_size_arg"][0]), 64)
        assert size == tuple(arrays[f"{case}/network_hw"])
    assert network_size((1080, 1920), 880, 64) == (448, 880)
    assert network_size((1280, 720), 880, 64) == (880, 448)


def test_scores_are_those_of_all_frames_together_and_per_video_in_either_layout(data: Path) -> None:
    result = evaluate(data, report={"enabled": True})
    clips = []
    for name in ("videos1", "videos2"):
        pairs = [(mask_file(data, name, n), f"{n + 1:012d}.png") for n in range(4)]
        folder = data.parent / "out" / "predictions" / name
        clips.append(
            np.sum([confusion(np.array(Image.open(t)), np.array(Image.open(folder / p))) for t, p in pairs], 0)
        )
    assert result["scores"]["mIoU"] == pytest.approx(mean_iou(clips[0] + clips[1]))
    assert result["scores"]["mIoU-per-video"] == pytest.approx((mean_iou(clips[0]) + mean_iou(clips[1])) / 2)
    assert result["sequences"]["videos1"]["frames_scored"] == 4
    assert set(result["sequences"]["videos2"]["details"]) == {"background", "upper clothes", "left leg"}
    assert np.sum(result["confusion"]) == 2 * 4 * 96 * 160
    known = [iou["IoU"] for iou in result["details"].values() if iou["IoU"] is not None]
    assert np.mean(known) == pytest.approx(result["scores"]["mIoU"])
    assert result["protocol"]["propagation"] == {**T_CORE, "top_k": 10}
    assert result["protocol"]["score"] == "mIoU over all frames of all clips"

    page = (data.parent / "out" / "report.html").read_text()
    assert "Classes over all sequences" in page
    cell = '<td class="number">'
    assert f"<td>left leg</td>{cell}{100 * result['details']['left leg']['IoU']:.1f}</td>" in page
    assert f"<td>hat</td>{cell}" in page

    (data / "Annotations" / "Category_ids").rename(data / "Category_ids")
    assert evaluate(data)["scores"] == result["scores"]


def test_scoring_masks_from_disk_resizes_them_to_the_truth(data: Path) -> None:
    evaluated = evaluate(data)
    predictions = data.parent / "out" / "predictions"
    for file in predictions.rglob("*.png"):
        with Image.open(file) as image:
            image.resize((320, 192), Image.Resampling.NEAREST).save(file)
    result = score(VIP, data)
    assert result["scores"] == evaluated["scores"]
    assert result["sequences"]["videos1"]["notes"] == [
        "predictions of another size than the truth's 160x96: 4 (first 000000000001, 320x192); brought to its size"
    ]


def test_late_classes_unknown_predicted_classes_and_void(data: Path) -> None:
    mask = np.array(Image.open(mask_file(data, "videos1", 2)))
    mask[:8] = 9
    Image.fromarray(mask).save(mask_file(data, "videos1", 2))
    mask = np.array(Image.open(mask_file(data, "videos1", 0)))
    mask[:, :10] = 255
    Image.fromarray(mask).save(mask_file(data, "videos1", 0))
    predictions = data.parent / "predictions"
    shutil.copytree(data / "Annotations" / "Category_ids", predictions)
    file = predictions / "videos1" / f"{4:012d}.png"
    mask = np.array(Image.open(file))
    mask[:4], mask[4:8] = 5, 255
    Image.fromarray(mask).save(file)
    result = score(VIP, data, predictions)
    assert np.sum(result["confusion"]) == 2 * 4 * 96 * 160 - 96 * 10
    first, second = result["sequences"]["videos1"]["notes"]
    assert first.startswith("ids in the truth but not in the first mask: 9 (first in frame 000000000003); counted")
    assert second.startswith("ids in the predictions but not in the truth: 5, 255 (first in frame 000000000001); void")


def test_bad_clips_fail_by_name_and_stop_no_other(data: Path) -> None:
    reasons = {
        "unknown": "000000000003.png has the value 20",
        "deep": "000000000002.png has the mode I;16",
        "nobody": "000000000001.png shows no object",
        "missing": "000000000003.png has no frame",
        "broken": "cannot read the frame",
    }
    for name in reasons:
        frames, masks = moving_squares(4)
        write_vip_clip(data, name, frames, dict(enumerate(masks)))
    Image.fromarray(np.full((96, 160), 20, np.uint8)).save(mask_file(data, "unknown", 2))
    Image.fromarray(np.full((96, 160), 2, np.uint16)).save(mask_file(data, "deep", 1))
    Image.fromarray(np.zeros((96, 160), np.uint8)).save(mask_file(data, "nobody", 0))
    (data / "Images" / "missing" / f"{3:012d}.jpg").unlink()
    (data / "Images" / "broken" / f"{3:012d}.jpg").write_bytes(b"nothing")
    sequences = evaluate(data, status=1)["sequences"]
    for name, reason in reasons.items():
        assert reason in sequences[name]["reason"]
    assert sequences["videos2"]["status"] == "scored"


def test_clips_of_the_demo_data_are_scored(tmp_path: Path) -> None:
    scene = casting.pose_scene([0, 0], casting.walk, 2)
    demo_trees.write_vip(tmp_path / "data", "videos1", scene, casting.HELD_OUT_TIMES[:3])
    result = evaluate(tmp_path / "data", sequences=("videos1",))
    assert result["sequences"]["videos1"]["frames_scored"] == 3
    assert {"face", "background"} <= set(result["sequences"]["videos1"]["details"])
