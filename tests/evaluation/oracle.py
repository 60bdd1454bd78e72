"""Label propagation in the most straightforward way: every affinity, then everything too far away crossed out."""

import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.propagation import PropagationSettings


def propagate_fully(features: Tensor, first_labels: Tensor, settings: PropagationSettings) -> list[Tensor]:
    """Soft labels (gh, gw, L) of each frame of features (T, gh, gw, D), with the prefixed copies made for real."""
    height, width = first_labels.shape[:2]
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(features.device).float()
    outside = torch.cdist(cells, cells) >= settings.radius
    unit = F.normalize(features.float(), dim=-1).flatten(1, 2)
    sources = [unit[0]] * settings.n_context
    labels = [first_labels.flatten(0, 1)] * settings.n_context
    sources.append(unit[0])
    labels.append(labels[0])
    for query in unit[1:]:
        context = [unit[0], *sources[-settings.n_context :]]
        affinity = query @ torch.cat(context).T
        affinity[:, len(cells) :].masked_fill_(outside.repeat(1, settings.n_context), -torch.inf)
        best = affinity.topk(min(settings.top_k, affinity.shape[1]))
        weights = (best.values / settings.temperature).softmax(-1)
        stored = torch.cat([labels[0], *labels[-settings.n_context :]])
        labels.append((weights[..., None] * stored[best.indices]).sum(1))
        sources.append(query)
    return [soft.view(height, width, -1) for soft in labels[settings.n_context :]]
