"""Index masks to soft labels on the patch grid and back, as in the protocols of T-CoRe, DINO and DINOv3."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def mask_to_labels(
    mask: NDArray[np.uint8], ids: Sequence[int], network_size: tuple[int, int], grid: tuple[int, int]
) -> Tensor:
    """Soft labels (gh, gw, L) of an index mask (H, W), one channel for each of the L `ids`.

    Nearest to the network's size, one-hot, then bilinear without antialiasing to the grid: each cell is the mean of the
    four pixels at its center.
    """
    resized = F.interpolate(torch.tensor(mask)[None, None].float(), size=network_size, mode="nearest")[0]
    one_hot = (resized == torch.tensor(ids)[:, None, None]).float()
    return F.interpolate(one_hot[None], size=grid, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)


def labels_to_mask(
    labels: Tensor, ids: Sequence[int], network_size: tuple[int, int], mask_size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Index mask (H, W) of soft labels (gh, gw, L): bilinear to the network's size, arg-max, nearest to `mask_size`.

    Everything but the mask stays on the device of the labels.
    """
    scores = F.interpolate(labels.permute(2, 0, 1)[None], size=network_size, mode="bilinear", align_corners=False)
    winners = scores.argmax(1, keepdim=True).float()
    return _with_ids(F.interpolate(winners, size=mask_size, mode="nearest")[0, 0].long(), ids)


def mask_to_labels_of_dino(mask: NDArray[np.uint8], ids: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """One-hot labels (gh, gw, L) of an index mask (H, W) as in DINO's code: Pillow's nearest to the grid."""
    return _one_hot(torch.tensor(resize_mask(mask, grid)), ids)


def mask_to_labels_of_dinov3(mask: NDArray[np.uint8], ids: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """One-hot labels (gh, gw, L) of an index mask (H, W) as in DINOv3's notebook: PyTorch's nearest-exact to the grid.

    It differs from Pillow's where the center of a cell is just between two pixels.
    """
    cells = F.interpolate(torch.tensor(mask)[None, None].float(), size=grid, mode="nearest-exact")[0, 0]
    return _one_hot(cells, ids)


def _one_hot(cells: Tensor, ids: Sequence[int]) -> Tensor:
    return (cells[..., None] == torch.tensor(ids)).float()


def labels_to_mask_of_dino(
    labels: Tensor, ids: Sequence[int], network_size: tuple[int, int], mask_size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Index mask (H, W) of soft labels (gh, gw, L) as in DINO's code.

    Bilinear to the network's size, each channel stretched to 0..1, arg-max, Pillow's nearest to `mask_size`. A channel
    of one value other than 0 wins everywhere.
    """
    scores = F.interpolate(labels.permute(2, 0, 1)[None], size=network_size, mode="bilinear", align_corners=False)
    winners = torch.where(scores.amax((2, 3), keepdim=True) > 0, _stretched(scores), scores).argmax(1)[0]
    return resize_mask(_with_ids(winners, ids), mask_size)


def labels_to_mask_of_dinov3(labels: Tensor, ids: Sequence[int], mask_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Index mask (H, W) of soft labels (gh, gw, L) as in DINOv3's notebook.

    Nearest to `mask_size`, each channel stretched to 0..1, arg-max. A channel of one value counts as 0.
    """
    scores = F.interpolate(labels.permute(2, 0, 1)[None], size=mask_size, mode="nearest")
    return _with_ids(_stretched(scores).nan_to_num(0).argmax(1)[0], ids)


def _stretched(scores: Tensor) -> Tensor:
    """Scores (1, L, H, W) with the range of each channel brought to 0..1; NaN in a channel of one value."""
    low, high = scores.amin((2, 3), keepdim=True), scores.amax((2, 3), keepdim=True)
    return (scores - low) / (high - low)


def _with_ids(channels: Tensor, ids: Sequence[int]) -> NDArray[np.uint8]:
    mask: NDArray[np.uint8] = torch.tensor(ids, dtype=torch.uint8, device=channels.device)[channels].cpu().numpy()
    return mask


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Index mask (H, W) at another size by Pillow's nearest neighbour, which samples at pixel centers."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
