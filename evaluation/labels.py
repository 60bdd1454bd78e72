"""Index masks to soft labels on the patch grid and back, as in the label propagation protocol."""

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
    channels = F.interpolate(winners, size=mask_size, mode="nearest")[0, 0].long()
    mask: NDArray[np.uint8] = torch.tensor(ids, dtype=torch.uint8, device=labels.device)[channels].cpu().numpy()
    return mask


def resize_mask(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Index mask (H, W) at another size by Pillow's nearest neighbour, which samples at pixel centers."""
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))
