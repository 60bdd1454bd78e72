"""Where the masked patches of a batch are. The host knows it from the plan, so nothing has to wait for the device.

Shape letters: B clips, P patches of a crop, C crops with a mask, M masked patches of the batch.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class MaskedPatches(NamedTuple):
    """The masks of the 2B global crops on the device, as a table and as indices."""

    table: Tensor  # (2B, P) bool
    crops: Tensor  # (C,) crops with a mask
    patches: Tensor  # (M,) masked patches among the 2B * P of all crops, row-major
    patches_of_crops: Tensor  # (M,) the same ones among the C * P of `crops`
    weights: Tensor  # (M,) float32, 1 / (number of masked patches in the crop)


def locate_masked_patches(masks: Tensor, device: torch.device) -> MaskedPatches:
    """Indices of the masks (2B, P) bool, which are on the host, and their copies on `device`."""
    table = masks.numpy()
    counts = table.sum(axis=1)
    crops = np.flatnonzero(counts)
    indices = [crops, np.flatnonzero(table), np.flatnonzero(table[crops])]
    weights = np.repeat(1 / counts[crops], counts[crops]).astype(np.float32)
    on_device = _to_device(torch.from_numpy(np.concatenate(indices)), device)
    crops_c, patches_m, patches_of_crops_m = torch.split_with_sizes(on_device, [len(part) for part in indices])
    weights_m = _to_device(torch.from_numpy(weights), device)
    return MaskedPatches(_to_device(masks, device), crops_c, patches_m, patches_of_crops_m, weights_m)


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from pinned memory, which does not wait; torch keeps that memory until the copy is done."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
