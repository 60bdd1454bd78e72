"""T-CoRe: student, EMA teacher and auxiliary branch; from the views of a batch to the losses.

Shape letters: B clips, S views of the student, P patches, M masked patches of the batch, D width.
"""

import copy
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.profiler import record_function

from pipeline.reader.batch import Batch
from pipeline.settings import FACTOR_LIMIT, Settings
from training.backbone.families import BackboneOptions
from training.backbone.vit import VisionTransformer, VitSettings
from training.center import Center
from training.head import HeadSettings, ProjectionHead
from training.losses import Classifier, Distillation, PrototypeLosses, koleo_loss, prototype_losses
from training.masks import MaskedPatches, locate_masked_patches
from training.pmm import PatchMatching, PmmSettings


class LossSettings(Settings):
    """Weights and constants of the objective (paper sections 3.5 and B.3)."""

    cls: float = Field(1.0, ge=0, le=FACTOR_LIMIT)
    """Weight of CLS self-distillation."""
    koleo: float = Field(0.1, ge=0, le=FACTOR_LIMIT)
    """Weight of KoLeo."""
    koleo_across_ranks: bool = False
    """Whether KoLeo looks for neighbours in the clips of all ranks, not only its own (released code: no)."""
    reconstruction: float = Field(0.8, ge=0, le=FACTOR_LIMIT)
    """Weight of the reconstruction loss of each auxiliary frame."""
    squeeze: float = Field(20.0, ge=0, le=FACTOR_LIMIT)
    """Weight of the squeeze loss between two auxiliary frames; 0 disables it."""
    patch: float = Field(1.0, ge=0, le=FACTOR_LIMIT)
    """Weight of masked-patch distillation (DINOv2), which replaces reconstruction without auxiliary branch."""
    student_temperature: float = Field(0.1, gt=0, le=FACTOR_LIMIT)
    """Temperature of the student's softmax."""
    center_momentum: float = Field(0.9, ge=0, le=1)
    """Momentum of the centers of the teacher's logits."""


class TCoReSettings(Settings):
    """The whole model."""

    backbone: VitSettings = VitSettings()
    """Vision Transformer of student and teacher."""
    head: HeadSettings = HeadSettings()
    """Projection head of student and teacher, shared by CLS and patch tokens."""
    auxiliary_branch: bool = True
    """Whether masked patches are restored from auxiliary frames; otherwise they are predicted directly."""
    pmm: PmmSettings = PmmSettings()
    """Patch Matching Module of the auxiliary branch."""
    separate_heads: bool = False
    """Whether patches have a head of their own; otherwise they share that of CLS tokens."""
    teacher_sees: Literal["current", "auxiliary"] = "current"
    """auxiliary: without auxiliary branch, the teacher sees the views of the auxiliary frame (paper, table 3b)."""
    loss: LossSettings = LossSettings()
    """Weights and temperatures of the objective."""
    init: Path | None = None
    """Weights that the backbones of student and teacher begin with; its sizes follow from them. Default: random."""
    init_options: BackboneOptions = BackboneOptions()
    """What the file `init` does not say."""
    freeze_backbone_epochs: int | None = Field(None, ge=0, le=1_000_000)
    """Epochs at the start in which only heads and Patch Matching Module are trained. Default: none."""

    @field_validator("freeze_backbone_epochs")
    @classmethod
    def _none_is_no_freeze(cls, epochs: int | None) -> int | None:
        return epochs or None

    @model_validator(mode="after")
    def _check(self) -> "TCoReSettings":
        if self.auxiliary_branch and self.backbone.width % self.pmm.heads:
            raise ValueError(f"pmm.heads = {self.pmm.heads} must divide backbone.width = {self.backbone.width}")
        if self.auxiliary_branch and self.teacher_sees == "auxiliary":
            raise ValueError("teacher_sees = auxiliary needs auxiliary_branch = false")
        return self


class Branch(nn.Module):
    """Backbone and heads of student or teacher."""

    def __init__(self, settings: TCoReSettings) -> None:
        super().__init__()
        self.backbone = VisionTransformer(settings.backbone)
        self.cls_head = ProjectionHead(settings.backbone.width, settings.head)
        self.patch_head = ProjectionHead(settings.backbone.width, settings.head) if settings.separate_heads else None

    @property
    def head_of_patches(self) -> ProjectionHead:
        """The head of patch tokens: their own, or that of CLS tokens."""
        return self.patch_head or self.cls_head


class Outputs(NamedTuple):
    """Result of a forward pass."""

    losses: dict[str, Tensor]
    """Losses times their weights, detached, and their sum `total`, which carries the gradients."""
    diagnostics: dict[str, Tensor]
    """Measures of collapse, without gradients: see `TCoRe.forward`."""


class TeacherRows(NamedTuple):
    """Projections of the teacher's tokens, unit vectors."""

    cls_2bd: Tensor  # one for each global crop
    patches_md: Tensor  # at the masked patches, row-major over the masks


class TCoRe(nn.Module):
    """The model under training. One step: `forward`, backward, optimizer, `update_teacher`, `apply_center_update`."""

    def __init__(self, settings: TCoReSettings) -> None:
        super().__init__()
        self.settings = settings
        self.student = Branch(settings)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.pmm = PatchMatching(settings.backbone.width, settings.pmm) if settings.auxiliary_branch else None
        prototypes, momentum = settings.head.prototypes, settings.loss.center_momentum
        self.cls_center = Center((1, prototypes), momentum)
        self.patch_center = Center((1, 1, prototypes), momentum)
        self.compiled = False
        self.train()

    def initialize_backbones(self, backbone: VisionTransformer) -> None:
        """Give student and teacher the weights of a backbone with the same settings."""
        for branch in (self.student, self.teacher):
            branch.backbone.load_state_dict(backbone.state_dict())

    def train(self, mode: bool = True) -> "TCoRe":
        """Set the mode of the student; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def compile_parts(self) -> None:
        """Compile blocks and prototype losses with `torch.compile`; parameter names do not change."""
        self.compiled = True
        for branch in (self.student, self.teacher):
            for block in branch.backbone.blocks:
                block.compile()

    def forward(self, batch: Batch, teacher_temperature: float) -> Outputs:
        """Compute the losses, each a float32 scalar with its weight, and their sum `total`.

        Losses: `cls_local`, `cls_global`, `koleo`; with an auxiliary branch `reconstruction_1`, `reconstruction_2` in
        the order of `batch.auxiliary` and `squeeze`; without it `patch`. Diagnostics: `cls_entropy` and
        `patch_entropy`, the mean entropies of the teacher's targets in nats, the latter times `batch.masked_loss_scale`
        so that it averages to that of the global batch; `features`, the student's CLS tokens (2B, D).

        Raises:
            ValueError: the number of auxiliary frames does not match the model.
        """
        self._check(batch)
        weights = self.settings.loss
        device = batch.global_crops.device
        masked = locate_masked_patches(batch.masks, device)
        teacher_crops = batch.auxiliary[0] if self.settings.teacher_sees == "auxiliary" else batch.global_crops
        teacher = self.teacher_rows(teacher_crops, masked)
        with record_function("student"):
            student_global = self.student.backbone(batch.global_crops, masked.table)
            student_local = self.student.backbone(batch.local_crops)
        restored_smd = self.restored_patches(batch.auxiliary, student_global.patches, masked)

        cls_nd = torch.cat([student_global.cls, student_local.cls])
        cls_rows, patch_rows = self._project(cls_nd, restored_smd.flatten(0, 1))
        cls_sbd = cls_rows.view(-1, len(batch.masks) // 2, cls_rows.shape[1])
        patches_smd = patch_rows.view(*restored_smd.shape[:2], patch_rows.shape[1])
        pairs = 2 * (len(cls_sbd) - 2) + 2
        patch_weight = weights.reconstruction if self.pmm else weights.patch
        with_squeeze = len(restored_smd) == 2 and weights.squeeze > 0
        cls = Distillation(
            cls_sbd,
            teacher.cls_2bd,
            self.cls_center.flat,
            torch.full_like(cls_sbd[0, :, 0], weights.cls / (pairs * cls_sbd.shape[1])),
            view_pairs(len(cls_sbd), device),
        )
        patches = Distillation(
            patches_smd,
            teacher.patches_md[None],
            self.patch_center.flat,
            patch_weight / len(batch.masks) * masked.weights,
        )
        squeeze_weight = weights.squeeze * batch.masked_loss_scale if with_squeeze else 0.0
        distilled = self._prototype_losses(cls, patches, squeeze_weight, teacher_temperature)
        with record_function("losses"):
            first, second = (
                koleo_loss(crop, across_ranks=weights.koleo_across_ranks) for crop in student_global.cls.chunk(2)
            )
        losses = {
            "cls_local": distilled.cls_s[2:].sum(),
            "cls_global": distilled.cls_s[:2].sum(),
            "koleo": weights.koleo * (first + second),
        }
        if not self.pmm:
            losses["patch"] = distilled.patches_s[0]
        else:
            losses |= {f"reconstruction_{number}": loss for number, loss in enumerate(distilled.patches_s, start=1)}
        if with_squeeze:
            losses["squeeze"] = distilled.squeeze
        losses["total"] = distilled.total + losses["koleo"]
        losses["koleo"] = losses["koleo"].detach()
        diagnostics = {
            "cls_entropy": distilled.cls_entropy,
            "patch_entropy": distilled.patch_entropy * batch.masked_loss_scale,
            "features": student_global.cls.detach(),
        }
        return Outputs(losses, diagnostics)

    def _check(self, batch: Batch) -> None:
        branch = "an auxiliary branch" if self.pmm else "no auxiliary branch"
        expected = (1, 2) if self.pmm else (1,) if self.settings.teacher_sees == "auxiliary" else (0,)
        if len(batch.auxiliary) not in expected:
            raise ValueError(f"the model has {branch} but the batch has {len(batch.auxiliary)} auxiliary frames")

    @record_function("student")
    def _project(self, cls_nd: Tensor, patches_nd: Tensor) -> tuple[Tensor, Tensor]:
        """Projections of the student's CLS tokens and patches, in one pass if they share a head."""
        if self.student.patch_head is not None:
            return self.student.cls_head.project(cls_nd), self.student.patch_head.project(patches_nd)
        rows = self.student.cls_head.project(torch.cat([cls_nd, patches_nd]))
        return rows[: len(cls_nd)], rows[len(cls_nd) :]

    @record_function("losses")
    def _prototype_losses(
        self, cls: Distillation, patches: Distillation, squeeze_weight: float, teacher_temperature: float
    ) -> PrototypeLosses:
        """The losses over the prototypes of one head, or of both."""

        def layers(student: ProjectionHead, teacher: ProjectionHead) -> tuple[Classifier, Classifier]:
            return (
                Classifier(student.last_layer.directions, self.settings.loss.student_temperature),
                Classifier(teacher.last_layer.directions, teacher_temperature),
            )

        of_cls = layers(self.student.cls_head, self.teacher.cls_head)
        if self.student.patch_head is None:
            return prototype_losses(*of_cls, cls, patches, squeeze_weight, self.compiled)
        of_patches = layers(self.student.head_of_patches, self.teacher.head_of_patches)
        first = prototype_losses(*of_cls, cls, patches.without_rows(), compiled=self.compiled)
        second = prototype_losses(*of_patches, cls.without_rows(), patches, squeeze_weight, self.compiled)
        return second._replace(total=first.total + second.total, cls_s=first.cls_s, cls_entropy=first.cls_entropy)

    @torch.no_grad()
    @record_function("teacher")
    def teacher_rows(self, global_crops: Tensor, masked: MaskedPatches) -> TeacherRows:
        """The teacher's rows of unmasked global crops; `apply_center_update` will add their logits to the centers."""
        tokens = self.teacher.backbone(global_crops)
        cls_head, patch_head = self.teacher.cls_head, self.teacher.head_of_patches
        patches_md = tokens.patches.flatten(0, 1).index_select(0, masked.patches)
        cls, patches = cls_head.project(tokens.cls), patch_head.project(patches_md)
        self.cls_center.add(cls_head.last_layer.directions.summed_logits(cls), len(cls))
        self.patch_center.add(patch_head.last_layer.directions.summed_logits(patches), len(patches))
        return TeacherRows(cls.view(2, -1, cls.shape[1]), patches)

    @record_function("auxiliary")
    def restored_patches(self, auxiliary: tuple[Tensor, ...], patches_bpd: Tensor, masked: MaskedPatches) -> Tensor:
        """Restored tokens (S, M, D) of the masked patches from each of S auxiliary frames, row-major over the masks.

        Crops without a mask, and the auxiliary crops beside them, are skipped: they never reach the loss. Without an
        auxiliary branch S is 1, for the student's own tokens of the masked patches.
        """
        if not self.pmm:
            return patches_bpd.flatten(0, 1).index_select(0, masked.patches)[None]
        frames = len(auxiliary)
        with torch.no_grad():
            crops = torch.cat([frame.index_select(0, masked.crops) for frame in auxiliary])
            auxiliary_bpd = self.student.backbone(crops).patches
        restored_bpd: Tensor = self.pmm(patches_bpd.index_select(0, masked.crops).repeat(frames, 1, 1), auxiliary_bpd)
        restored_spd = restored_bpd.view(frames, len(masked.crops) * patches_bpd.shape[1], patches_bpd.shape[2])
        return restored_spd.index_select(1, masked.patches_of_crops)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher toward the student: `teacher = momentum * teacher + (1 - momentum) * student`.

        Where the student is frozen, the teacher is, too.
        """
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        trained = [(teacher, student) for teacher, student in pairs if student.requires_grad]
        teacher, student = (list(parameters) for parameters in zip(*trained, strict=True))
        torch._foreach_lerp_(teacher, student, 1 - momentum)

    def forget_pending_centers(self) -> None:
        """Drop the teacher logits since the last update of the centers."""
        self.cls_center.forget_pending()
        self.patch_center.forget_pending()

    def apply_center_update(self) -> None:
        """Update the centers with the teacher logits since the last call; all ranks call this after each step."""
        self.cls_center.apply_pending()
        self.patch_center.apply_pending()


def view_pairs(views: int, device: torch.device | None = None) -> Tensor:
    """(views, 2) 1 where a view of the student predicts a global crop of the teacher (paper section 3.5).

    Local crops predict both global crops, global crops the other one.
    """
    pairs_st = torch.ones(views, 2, device=device)
    pairs_st[:2] -= torch.eye(2, device=device)
    return pairs_st
