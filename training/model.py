"""T-CoRe: student, EMA teacher and auxiliary branch; from the views of a batch to the terms of the objective.

Module names give the parameter names of the released code. Shape letters: B clips, L local crops per clip, P patches,
M masked patches of the batch, D width, K prototypes.
"""

import copy
from typing import NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from pipeline.reader.batch import Batch
from pipeline.settings import Settings
from training.centre import Centre
from training.head import HeadSettings, ProjectionHead
from training.losses import cls_losses, koleo_loss, patch_loss, squeeze_loss, teacher_targets
from training.pmm import PatchMatching, PmmSettings
from training.vit import VisionTransformer, VitSettings


class LossSettings(Settings):
    """Weights and constants of the objective (paper sections 3.5 and B.3)."""

    cls: float = Field(1.0, ge=0)
    """Weight of CLS self-distillation."""
    koleo: float = Field(0.1, ge=0)
    """Weight of KoLeo."""
    reconstruction: float = Field(0.8, ge=0)
    """Weight of the reconstruction loss of each auxiliary frame."""
    squeeze: float = Field(20.0, ge=0)
    """Weight of the squeeze loss between two auxiliary frames; 0 leaves it out."""
    patch: float = Field(1.0, ge=0)
    """Weight of plain masked-patch distillation, which replaces reconstruction without auxiliary branch (DINOv2)."""
    student_temperature: float = Field(0.1, gt=0)
    """Temperature of the student's softmax."""
    centre_momentum: float = Field(0.9, ge=0, le=1)
    """Share of the old centre that stays at each step."""


class TCoReSettings(Settings):
    """The whole model."""

    backbone: VitSettings = VitSettings()
    """Vision Transformer of student and teacher."""
    head: HeadSettings = HeadSettings()
    """Projection head of student and teacher, shared by CLS and patch tokens."""
    auxiliary_branch: bool = True
    """Whether masked patches are restored from auxiliary frames; without it they are predicted directly."""
    pmm: PmmSettings = PmmSettings()
    """Patch Matching Module of the auxiliary branch."""
    loss: LossSettings = LossSettings()
    """Weights and temperatures of the objective."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.auxiliary_branch and self.backbone.width % self.pmm.heads:
            raise ValueError(f"pmm.heads = {self.pmm.heads} must divide backbone.width = {self.backbone.width}")
        return self


class Branch(nn.Module):
    """Backbone and head of student or teacher."""

    def __init__(self, settings: TCoReSettings) -> None:
        super().__init__()
        self.backbone = VisionTransformer(settings.backbone)
        self.dino_head = ProjectionHead(settings.backbone.width, settings.head)


class Auxiliary(nn.Module):
    """Holder of the Patch Matching Module."""

    def __init__(self, settings: TCoReSettings) -> None:
        super().__init__()
        self.auxiliary_decoder = PatchMatching(settings.backbone.width, settings.pmm)


class Targets(NamedTuple):
    """Teacher distributions over the prototypes."""

    cls_2bk: Tensor  # (2, B, K), one for each global crop
    patches_mk: Tensor  # (M, K) at the masked places, row-major over `Batch.masks`


class TCoRe(nn.Module):
    """The model under training. One step: `forward`, backward, optimiser, `update_teacher`, `apply_centre_update`."""

    def __init__(self, settings: TCoReSettings) -> None:
        super().__init__()
        self.settings = settings
        self.student = Branch(settings)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.auxiliary = Auxiliary(settings) if settings.auxiliary_branch else None
        prototypes, momentum = settings.head.prototypes, settings.loss.centre_momentum
        self.dino_loss = Centre((1, prototypes), momentum)
        self.ibot_patch_loss = Centre((1, 1, prototypes), momentum)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the student; the teacher always evaluates all its branches."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, teacher_temperature: float) -> dict[str, Tensor]:
        """Compute the terms of the objective, each a float32 scalar with its weight, and their sum `total`.

        Terms: `cls_local`, `cls_global`, `koleo`; with an auxiliary branch `reconstruction_1`, `reconstruction_2` in
        the order of `batch.auxiliary` and `squeeze`; without it `patch`.

        Raises:
            ValueError: there are auxiliary frames but no auxiliary branch, or the other way round, or more than two.
        """
        branch = "an auxiliary branch" if self.auxiliary else "no auxiliary branch"
        if len(batch.auxiliary) not in ((1, 2) if self.auxiliary else (0,)):
            raise ValueError(f"the model has {branch} but the batch has {len(batch.auxiliary)} auxiliary frames")
        weights = self.settings.loss
        temperature = weights.student_temperature
        targets = self.targets(batch.global_crops, batch.masks, teacher_temperature)
        student_global = self.student.backbone(batch.global_crops, batch.masks)
        student_local = self.student.backbone(batch.local_crops)
        restored = self.restored_patches(batch, student_global.patches)

        rows = [student_global.cls, student_local.cls, *restored]
        logits = self.student.dino_head(torch.cat(rows)).split([len(part) for part in rows])
        global_2bk = logits[0].unflatten(0, (2, -1))
        local_lbk = logits[1].unflatten(0, (-1, global_2bk.shape[1]))
        cls_local, cls_global = cls_losses(targets.cls_2bk, global_2bk, local_lbk, temperature)
        koleo = torch.stack([koleo_loss(crop) for crop in student_global.cls.chunk(2)]).sum()
        terms = {
            "cls_local": weights.cls * cls_local,
            "cls_global": weights.cls * cls_global,
            "koleo": weights.koleo * koleo,
        }
        weights_m = patch_weights(batch.masks)
        patch_losses = [
            patch_loss(targets.patches_mk, part, weights_m, len(batch.masks), temperature) for part in logits[2:]
        ]
        if not self.auxiliary:
            terms["patch"] = weights.patch * patch_losses[0]
        else:
            for number, loss in enumerate(patch_losses, start=1):
                terms[f"reconstruction_{number}"] = weights.reconstruction * loss
        if len(restored) == 2 and weights.squeeze > 0:
            terms["squeeze"] = weights.squeeze * batch.masked_share * squeeze_loss(logits[2], logits[3])
        terms["total"] = torch.stack(list(terms.values())).sum()
        return terms

    @torch.no_grad()
    def targets(self, global_crops: Tensor, masks: Tensor, temperature: float) -> Targets:
        """Teacher targets of unmasked global crops; their logits wait for `apply_centre_update`."""
        tokens = self.teacher.backbone(global_crops)
        logits = self.teacher.dino_head(torch.cat([tokens.cls, tokens.patches[masks]]))
        cls_logits, patch_logits = logits[: len(masks)], logits[len(masks) :]
        self.dino_loss.add(cls_logits)
        self.ibot_patch_loss.add(patch_logits)
        cls_targets = teacher_targets(cls_logits, self.dino_loss.center, temperature)
        patch_targets = teacher_targets(patch_logits, self.ibot_patch_loss.center[0], temperature)
        return Targets(cls_targets.reshape(2, -1, cls_targets.shape[1]), patch_targets)

    def restored_patches(self, batch: Batch, patches_bpd: Tensor) -> list[Tensor]:
        """Student tokens (M, D) of the masked patches, one tensor for each auxiliary frame, row-major over the masks.

        Crops without a mask never reach the loss and are left out, of the auxiliary frames too. Without an auxiliary
        branch the list holds the student's own tokens of the masked patches.
        """
        if not self.auxiliary:
            return [patches_bpd[batch.masks]]
        crops = batch.masks.any(dim=1).nonzero().squeeze(1)
        frames = len(batch.auxiliary)
        with torch.no_grad():
            auxiliary_bpd = self.student.backbone(torch.cat([frame[crops] for frame in batch.auxiliary])).patches
        restored = self.auxiliary.auxiliary_decoder(patches_bpd[crops].repeat(frames, 1, 1), auxiliary_bpd)
        masked = batch.masks[crops]
        return [part[masked] for part in restored.chunk(frames)]

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student: `teacher = momentum * teacher + (1 - momentum) * student`."""
        for teacher, student in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            teacher.lerp_(student, 1 - momentum)

    def apply_centre_update(self) -> None:
        """Let the teacher logits seen since the last call enter the centres; all ranks call it after each step."""
        self.dino_loss.apply_pending()
        self.ibot_patch_loss.apply_pending()


def patch_weights(masks: Tensor) -> Tensor:
    """For masks (2B, P) the weight (M,) of each masked patch: 1 / (number of masked patches in its crop)."""
    return (1 / masks.sum(dim=1, keepdim=True)).expand_as(masks)[masks]
