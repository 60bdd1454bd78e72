"""Straightforward label propagation and boundary measure, the reference for results and for time.

Propagation computes the full affinity matrix and masks it by distance; the boundary measure dilates boundaries.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from evaluation.davis_scores import boundary
from evaluation.propagation import PropagationSettings


def propagate_fully(features: Tensor, first_labels: Tensor, settings: PropagationSettings) -> list[Tensor]:
    """Soft labels (gh, gw, L) of each frame of features (T, gh, gw, D), with real copies of the first frame."""
    height, width = first_labels.shape[:2]
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(features.device).float()
    distance = torch.cdist(cells, cells, p=torch.inf if settings.neighborhood == "square" else 2.0)
    outside = distance >= settings.radius if settings.neighborhood == "open-circle" else distance > settings.radius
    unit = F.normalize(features.float(), dim=-1).flatten(1, 2)
    first = first_labels.flatten(0, 1)
    previous = [(unit[0], first)] * (settings.n_context if settings.pad_context else 0)
    if settings.pad_context:
        previous.append((unit[0], first))
    soft = [first]
    for query in unit[1:]:
        context = [(unit[0], first), *previous[-settings.n_context :]]
        affinity = query @ torch.cat([source for source, _ in context]).T
        limited = 0 if settings.limit_first_frame else len(cells)
        affinity[:, limited:].masked_fill_(outside.repeat(1, len(context))[:, limited:], -torch.inf)
        best = affinity.topk(min(settings.top_k, affinity.shape[1]))
        weights = (best.values / settings.temperature).softmax(-1)
        soft.append((weights[..., None] * torch.cat([labels for _, labels in context])[best.indices]).sum(1))
        previous.append((query, soft[-1]))
    return [labels.view(height, width, -1) for labels in soft]


def boundary_measure_by_dilation(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> float:
    """F by dilating each boundary with a disk and intersecting it with the other."""
    radius = int(np.ceil(0.008 * np.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    edges = [boundary(mask) for mask in (prediction, truth)]
    thick = [ndimage.binary_dilation(edge, y**2 + x**2 <= radius**2) for edge in edges]
    counts = [int(edge.sum()) for edge in edges]
    if 0 in counts:
        return float(counts[0] == counts[1])
    precision, recall = (int((edges[i] & thick[1 - i]).sum()) / counts[i] for i in (0, 1))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
