"""The training step in its simplest form, with K-wide logits and no work skipped: the reference for ours.

Shape letters: B clips, L local crops per clip, M masked patches, K prototypes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.reader.batch import Batch
from training.losses import koleo_loss
from training.model import Outputs, TCoRe


def teacher_targets(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Soft targets `softmax((logits - center) / temperature)` over the last axis, of any shape (..., K)."""
    return F.softmax((logits - center) / temperature, dim=-1)


def cross_entropy(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Cross-entropy (...) of `softmax(logits / temperature)` against soft targets, both (..., K)."""
    return -(targets * F.log_softmax(logits / temperature, dim=-1)).sum(dim=-1)


def cls_losses(targets_2bk: Tensor, global_2bk: Tensor, local_lbk: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Local and global part of CLS self-distillation: mean over the 2 L + 2 pairs of views."""
    pairs_of_views = 2 * len(local_lbk) + 2
    local = torch.stack([cross_entropy(t, s, temperature).mean() for t in targets_2bk for s in local_lbk]).sum()
    pairs = zip(targets_2bk, global_2bk.flip(0), strict=True)
    swapped = torch.stack([cross_entropy(t, s, temperature).mean() for t, s in pairs]).sum()
    return local / pairs_of_views, swapped / pairs_of_views


def patch_loss(targets_mk: Tensor, logits_mk: Tensor, weights_m: Tensor, crops: int, temperature: float) -> Tensor:
    """Distillation of masked patches: mean over all crops, masked or not, of the crop's mean."""
    return (cross_entropy(targets_mk, logits_mk, temperature) * weights_m).sum() / crops


def squeeze_loss(first_mk: Tensor, second_mk: Tensor) -> Tensor:
    """Mean squared difference of logits."""
    return F.mse_loss(first_mk, second_mk)


class ReferenceTCoRe(TCoRe):
    """The same model with two auxiliary frames; every crop goes through every module, every logit is kept."""

    def forward(self, batch: Batch, teacher_temperature: float) -> Outputs:
        """As in `TCoRe`."""
        assert self.pmm is not None
        weights, temperature = self.settings.loss, self.settings.loss.student_temperature
        masks = batch.masks.to(batch.global_crops.device)
        with torch.no_grad():
            tokens = self.teacher.backbone(batch.global_crops)
            cls_logits = self.teacher.cls_head(tokens.cls)
            patch_logits = self.teacher.cls_head(tokens.patches[masks])
            self.cls_center.add(cls_logits.sum(dim=0), len(cls_logits))
            self.patch_center.add(patch_logits.sum(dim=0), len(patch_logits))
            cls_targets = teacher_targets(cls_logits, self.cls_center.center, teacher_temperature)
            patch_targets = teacher_targets(patch_logits, self.patch_center.center[0], teacher_temperature)
        student = self.student.backbone(batch.global_crops, masks)
        head = self.student.cls_head
        local_cls = head(self.student.backbone(batch.local_crops).cls)
        local_lbk = local_cls.view(-1, len(batch.masks) // 2, local_cls.shape[1])
        local, swapped = cls_losses(
            torch.stack(cls_targets.chunk(2)), torch.stack(head(student.cls).chunk(2)), local_lbk, temperature
        )
        logits = []
        for frame in batch.auxiliary:
            with torch.no_grad():
                auxiliary = self.student.backbone(frame).patches
            logits.append(head(self.pmm(student.patches, auxiliary)[masks]))
        weights_m, crops = (1 / masks.sum(dim=1, keepdim=True)).expand_as(masks)[masks], len(masks)
        rebuilt = [patch_loss(patch_targets, part, weights_m, crops, temperature) for part in logits]
        losses = {
            "cls_local": weights.cls * local,
            "cls_global": weights.cls * swapped,
            "koleo": weights.koleo * torch.stack([koleo_loss(crop) for crop in student.cls.chunk(2)]).sum(),
            "reconstruction_1": weights.reconstruction * rebuilt[0],
            "reconstruction_2": weights.reconstruction * rebuilt[1],
            "squeeze": weights.squeeze * batch.masked_loss_scale * squeeze_loss(*logits),
        }
        losses["total"] = torch.stack(list(losses.values())).sum()
        return Outputs(losses, {})
