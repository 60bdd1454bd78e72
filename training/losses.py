"""The losses of T-CoRe as pure functions of logits and targets.

Shape letters: B clips, L local crops per clip, M masked patches, K prototypes, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def teacher_targets(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Soft targets `softmax((logits - centre) / temperature)` over the last axis, of any shape (..., K)."""
    return F.softmax((logits - centre) / temperature, dim=-1)


def cross_entropy(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Cross-entropy (...) of `softmax(logits / temperature)` against soft targets, both (..., K).

    It is linear in the targets, so the sum over several targets of one row is the entropy against their sum.
    """
    return -(targets * F.log_softmax(logits / temperature, dim=-1)).sum(dim=-1)


def cls_losses(targets_2bk: Tensor, global_2bk: Tensor, local_lbk: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Self-distillation of CLS tokens (paper section 3.5): the part of the local crops and that of the global crops.

    Every local crop is compared with both teacher crops, every global crop with the other one; the sum of the means
    over the clips is divided by the number of comparisons, 2 L + 2.

    Args:
        targets_2bk: (2, B, K) teacher targets of the two global crops.
        global_2bk: (2, B, K) student logits of the global crops.
        local_lbk: (L, B, K) student logits of the local crops.
        temperature: of the student.
    """
    comparisons = 2 * len(local_lbk) + 2
    local = cross_entropy(targets_2bk.sum(dim=0), local_lbk, temperature)
    swapped = cross_entropy(targets_2bk.flip(0), global_2bk, temperature)
    batch = targets_2bk.shape[1]
    return local.sum() / (comparisons * batch), swapped.sum() / (comparisons * batch)


def patch_loss(targets_mk: Tensor, logits_mk: Tensor, weights_m: Tensor, crops: int, temperature: float) -> Tensor:
    """Distillation of masked patches (paper section 3.5): mean over all crops, masked or not, of the crop's mean.

    Args:
        targets_mk: (M, K) teacher targets of the masked patches.
        logits_mk: (M, K) student logits at the same places.
        weights_m: (M,) 1 / (number of masked patches in the patch's crop).
        crops: 2 B, the number of global crops.
        temperature: of the student.
    """
    return (cross_entropy(targets_mk, logits_mk, temperature) * weights_m).sum() / crops


def squeeze_loss(first_mk: Tensor, second_mk: Tensor) -> Tensor:
    """Mean squared difference of the logits (M, K) restored from two auxiliary frames; 0 without masked patches."""
    return (first_mk - second_mk).square().sum() / max(first_mk.numel(), 1)


def koleo_loss(features_bd: Tensor, epsilon: float = 1e-8) -> Tensor:
    """KoLeo regulariser `-(1/B) sum log(d_i + epsilon)` of L2-normalised features (B, D), in float32.

    d_i is the distance to the nearest other row. Only the rows given are compared, so over several ranks it is the
    mean of the ranks' own values. A single row has no neighbour: 0.
    """
    if len(features_bd) < 2:
        return features_bd.sum() * 0
    with torch.autocast(features_bd.device.type, enabled=False):
        unit = F.normalize(features_bd.float(), eps=epsilon, dim=-1)
        with torch.no_grad():
            nearest = (unit @ unit.T).fill_diagonal_(-1).argmax(dim=1)
        distances = F.pairwise_distance(unit, unit[nearest], eps=epsilon)
        return -(distances + epsilon).log().mean()
