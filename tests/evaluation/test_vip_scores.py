import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.labels import resize_mask
from evaluation.vip_scores import CLASSES, class_iou, confusion, mean_iou, mean_iou_per_video
from tests.reference_data import read_arrays


def recorded_clips() -> dict[str, NDArray[np.int64]]:
    arrays = read_arrays("eval_vip")
    clips: dict[str, NDArray[np.int64]] = {}
    for key in (name.removeprefix("gt/") for name in arrays if name.startswith("gt/")):
        truth = arrays[f"gt/{key}"]
        counts = confusion(truth, resize_mask(arrays[f"pred/{key}"], (truth.shape[0], truth.shape[1])))
        clip = key.split("/")[0]
        clips[clip] = clips.get(clip, np.zeros_like(counts)) + counts
    return clips


def test_confusion_iou_and_mean_are_the_recorded_ones() -> None:
    arrays = read_arrays("eval_vip")
    counts = np.sum(list(recorded_clips().values()), 0)
    np.testing.assert_array_equal(counts, arrays["hist"])
    np.testing.assert_allclose(class_iou(counts), arrays["iou_per_class"], rtol=0, atol=1e-12)
    assert mean_iou(counts) == pytest.approx(float(arrays["miou"]), abs=1e-12)


def test_the_mean_per_video_is_another_number() -> None:
    clips = list(recorded_clips().values())
    expected = np.mean([np.nanmean(class_iou(counts)) for counts in clips])
    assert mean_iou_per_video(clips) == pytest.approx(expected)
    assert abs(mean_iou_per_video(clips) - mean_iou(np.sum(clips, 0))) > 1e-3


def test_void_is_left_out_and_absent_classes_do_not_enter_the_mean() -> None:
    truth, prediction = np.array([[0, 1, 255]], np.uint8), np.array([[0, 2, 2]], np.uint8)
    counts = confusion(truth, prediction)
    assert counts.sum() == 2
    assert counts[1, 2] == 1
    assert mean_iou(counts) == pytest.approx(1 / 3)
    assert np.isnan(mean_iou(np.zeros((len(CLASSES), len(CLASSES)), np.int64)))
