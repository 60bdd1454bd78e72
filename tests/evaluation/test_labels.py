import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.labels import labels_to_mask, mask_to_labels, resize_mask
from tests.reference_data import read_arrays


def test_soft_labels_of_a_mask_are_the_recorded_ones() -> None:
    arrays = read_arrays("eval_datasets")
    height, width = map(int, arrays["davis/network_hw"])
    for frame, recorded in zip((0, -1), arrays["davis/soft_labels_frame0_and_last"], strict=True):
        mask = arrays["davis/label_index_frames"][frame]
        labels = mask_to_labels(mask, [0, 1, 2], (height, width), (height // 16, width // 16))
        np.testing.assert_array_equal(labels.numpy(), recorded)


@pytest.mark.parametrize("case", ["vip", "vip_gap"])
def test_soft_labels_of_part_classes_are_the_recorded_ones(case: str) -> None:
    arrays = read_arrays("eval_datasets")
    height, width = map(int, arrays[f"{case}/network_hw"])
    ids = [int(value) for value in arrays[f"{case}/label_values"][:, 0]]
    for frame, recorded in zip((0, -1), arrays[f"{case}/soft_labels_frame0_and_last"], strict=True):
        labels = mask_to_labels(
            arrays[f"{case}/label_index_frames"][frame], ids, (height, width), (height // 16, width // 16)
        )
        np.testing.assert_array_equal(labels.numpy(), recorded)


def test_masks_of_soft_labels_are_the_recorded_ones() -> None:
    arrays = read_arrays("eval_propagation")
    for case in ("davis_default", "davis_small_radius", "vip_like_lowT", "jhmdb_like"):
        colors = arrays[f"{case}/label_values"]
        frames = arrays.get(f"{case}/hard_frames", range(len(arrays[f"{case}/soft"])))
        for frame, recorded in zip(frames, arrays[f"{case}/hard"], strict=True):
            size = recorded.shape[0], recorded.shape[1]
            labels = torch.from_numpy(arrays[f"{case}/soft"][frame])
            mask = labels_to_mask(labels, range(len(colors)), size, size)
            np.testing.assert_array_equal(colors[mask], recorded)


def test_ids_with_gaps_come_back_as_they_were() -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :32], mask[:, 64:] = 7, 254
    ids = [0, 7, 254]
    labels = mask_to_labels(mask, ids, (64, 96), (4, 6))
    np.testing.assert_array_equal(labels_to_mask(labels, ids, (64, 96), (64, 96)), mask)


def test_masks_are_resized_as_pillow_does_it() -> None:
    mask = np.random.default_rng(0).integers(0, 20, (64, 112), np.uint8)
    for size in ((72, 128), (64, 112), (33, 57)):
        expected = np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
        np.testing.assert_array_equal(resize_mask(mask, size), expected)
