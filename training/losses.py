"""The losses of T-CoRe: KoLeo, and distillation over K prototypes without K-wide logits outside a chunk of rows.

A row is a projection on the unit sphere; its logits are cosines to weight-normalized prototypes. `prototype_losses`
processes the rows in chunks and computes the gradients in the same pass, so nothing K-wide is kept for the backward
pass and nothing is computed twice. The squeeze loss needs no logits: `|W d|^2 = d^T (W^T W) d`.

Shape letters: N sets of S student rows and T teacher rows (views of a clip, or frames of a patch), M masked patches,
K prototypes, D width of the projection, B clips.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK = {"cpu": 1 << 23, "cuda": 1 << 26}
"""Elements of the widest tensor in a chunk: 128 rows of 65,536 logits on the CPU, 1,024 on a GPU (256 MiB)."""
GRAM_ROWS = 1 << 13
"""Prototypes that are added to the Gram matrix at a time."""


class Prototypes(NamedTuple):
    """Weight-normalized rows `g v / |v|` of a head's last layer; the matrix is not formed."""

    g_k1: Tensor
    v_kd: Tensor

    def scale_k(self) -> Tensor:
        """Factor of each row of v: `g / |v|`."""
        lengths_k1: Tensor = self.v_kd.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return (self.g_k1 / lengths_k1).squeeze(1)

    def summed_logits(self, rows_nd: Tensor) -> Tensor:
        """Sum of the logits of all rows, (K,), without the logits: the last layer is linear without bias."""
        return torch.mv(self.v_kd, rows_nd.sum(dim=0).to(self.v_kd.dtype)) * self.scale_k()


class Student(NamedTuple):
    """Last layer of the student's head, and the temperature of its softmax."""

    prototypes: Prototypes
    temperature: float


class Teacher(NamedTuple):
    """Rows of the teacher; their soft targets are `softmax((logits - center) / temperature)`."""

    rows_tnd: Tensor
    prototypes: Prototypes
    center_k: Tensor
    temperature: float


@dataclass(frozen=True)
class DistillationTarget:
    """What N sets of S student rows are trained to predict, and the weight of each pair of rows."""

    teacher: Teacher
    weights_n: Tensor
    """(N,) weight of each set."""
    pairs_st: Tensor | None = None
    """(S, T) 1 where student row s of a set predicts teacher row t of the set, else 0. Default: all, where T = 1."""

    def without_rows(self) -> "DistillationTarget":
        """The same target with no sets of rows."""
        teacher = self.teacher._replace(rows_tnd=self.teacher.rows_tnd[:, :0])
        return replace(self, teacher=teacher, weights_n=self.weights_n[:0])


class PrototypeLosses(NamedTuple):
    """Result of `prototype_losses`; only `total` carries gradients."""

    total: Tensor
    """Sum of all losses."""
    cls_s: Tensor
    """(S,) CLS losses of the student's views."""
    patches_s: Tensor
    """(S,) patch losses of the auxiliary frames."""
    squeeze: Tensor
    """Weighted squeeze loss; 0 without weight."""
    cls_entropy: Tensor
    """Mean entropy of the teacher's CLS targets, in nats."""
    patch_entropy: Tensor
    """Mean entropy of the teacher's patch targets, in nats; 0 without masked patches."""


def prototype_losses(
    student: Student,
    cls_snd: Tensor,
    cls: DistillationTarget,
    patches_smd: Tensor,
    patches: DistillationTarget,
    squeeze_weight: float = 0.0,
) -> PrototypeLosses:
    """Distillation of CLS tokens and masked patches, and the squeeze loss (paper section 3.5).

    With W the matrix of a head's last layer, `cls_s` and `patches_s` are

        for n, s, t in product(range(N), range(S), range(T)):
            p = softmax((teacher_rows[t, n] @ W_teacher.T - center) / teacher_temperature)
            losses[s] += weights[n] * pairs[s, t] * cross_entropy(rows[s, n] @ W.T / student_temperature, p)

    and the squeeze loss is `squeeze_weight * ((patches[0] - patches[1]) @ W.T).square().mean()`. The result is exact.
    Under autocast the matrix products run in its type, everything else in float32 (or the type of the rows, if that is
    wider).

    Args:
        student: last layer of the student's head, and its temperature.
        cls_snd: projected CLS tokens of the student's views.
        cls: their target.
        patches_smd: projected masked patches, restored from each of S auxiliary frames.
        patches: their target.
        squeeze_weight: weight of the squeeze loss.
    """
    outputs = _PrototypeLosses.apply(  # type: ignore[no-untyped-call]
        *student.prototypes, cls_snd, patches_smd, student.temperature, (cls, patches), squeeze_weight
    )
    return PrototypeLosses(*outputs)


class _PrototypeLosses(torch.autograd.Function):
    """All losses over the prototypes of one head, whose gradient is summed in a single K x D buffer."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - a context of torch
        g_k1: Tensor,
        v_kd: Tensor,
        cls_snd: Tensor,
        patches_smd: Tensor,
        temperature: float,
        targets: tuple[DistillationTarget, DistillationTarget],
        squeeze_weight: float,
    ) -> tuple[Tensor, ...]:
        kind = v_kd.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else v_kd.dtype
        wide = torch.promote_types(v_kd.dtype, torch.float32)
        student = Prototypes(g_k1.to(wide), v_kd.to(wide))
        with torch.autocast(kind, enabled=False):
            gradient_kd = torch.zeros_like(student.v_kd)
            losses, row_gradients, entropies = [], [], []
            for rows_snd, target in zip((cls_snd, patches_smd), targets, strict=True):
                losses_s, gradient_snd, entropy = _distil(student, rows_snd, target, temperature, dtype, gradient_kd)
                losses.append(losses_s)
                row_gradients.append(gradient_snd)
                entropies.append(entropy)
            squeeze = _squeeze(student, patches_smd, squeeze_weight, row_gradients[1], gradient_kd)
            gradient_k1, gradient_kd = _through_normalization(student, gradient_kd)
        ctx.gradients = (gradient_k1.to(g_k1.dtype), gradient_kd.to(v_kd.dtype), *row_gradients)
        ctx.mark_non_differentiable(*losses, squeeze, *entropies)
        total = losses[0].sum() + losses[1].sum() + squeeze
        return total, *losses, squeeze, *entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gradients, ctx.gradients = ctx.gradients, None
        return *(gradient.mul_(upstream) for gradient in gradients), None, None, None


def _distil(
    student: Prototypes,
    rows_snd: Tensor,
    target: DistillationTarget,
    temperature: float,
    dtype: torch.dtype,
    gradient_kd: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (S,), gradients with respect to the rows (S, N, D) and mean entropy of the targets.

    Adds the gradient with respect to `v`, at fixed `g / |v|`, to `gradient_kd`.
    """
    teacher, pairs_st = target.teacher, target.pairs_st
    targets_of_s = torch.ones(1, 1) if pairs_st is None else pairs_st.sum(dim=1, keepdim=True)
    targets_of_s = targets_of_s.to(gradient_kd)
    v_kd, teacher_v_kd = student.v_kd.to(dtype), teacher.prototypes.v_kd.to(dtype)
    scale_k = student.scale_k()
    logit_scale_k, teacher_scale_k = scale_k / temperature, teacher.prototypes.scale_k() / teacher.temperature
    losses_s, entropy = gradient_kd.new_zeros(len(rows_snd)), gradient_kd.new_zeros(())
    gradient_snd = torch.empty_like(rows_snd)
    size = max(1, CHUNK[v_kd.device.type] // (len(rows_snd) * len(v_kd)))
    for start in range(0, rows_snd.shape[1], size):
        part = slice(start, start + size)
        logits_tnk = _logits(teacher.rows_tnd[:, part], teacher_v_kd, teacher_scale_k)
        logits_tnk.sub_(teacher.center_k / teacher.temperature)
        log_targets_tnk = F.log_softmax(logits_tnk, dim=-1)
        targets_snk = torch.exp(log_targets_tnk, out=logits_tnk)
        entropy -= torch.einsum("tnk,tnk->", targets_snk, log_targets_tnk)
        del log_targets_tnk, logits_tnk
        if pairs_st is not None:
            targets_snk = torch.einsum("st,tnk->snk", pairs_st.to(targets_snk.dtype), targets_snk)
        rows_n = rows_snd[:, part]
        logits_snk = _logits(rows_n, v_kd, logit_scale_k)  # in place from here on: no other tensor is as large
        logits_snk.sub_(logits_snk.amax(dim=-1, keepdim=True))
        target_logits_sn = torch.einsum("snk,snk->sn", targets_snk, logits_snk)
        sums_sn = logits_snk.exp_().sum(dim=-1)
        weights_n = target.weights_n[part].to(gradient_kd.dtype)
        losses_s += (targets_of_s * sums_sn.log() - target_logits_sn) @ weights_n
        slopes_snk = logits_snk.mul_((targets_of_s / sums_sn)[..., None]).sub_(targets_snk).mul_(scale_k)
        del targets_snk, logits_snk  # slopes: of the cross-entropy with respect to row @ v, times the temperature
        slopes = slopes_snk.flatten(0, 1).to(dtype)
        factors_n1 = (weights_n / temperature)[:, None]
        gradient_snd[:, part] = (slopes @ v_kd).view_as(rows_n) * factors_n1
        _add_product(gradient_kd, slopes.T, (rows_n * factors_n1).flatten(0, 1).to(dtype))
    return losses_s, gradient_snd, entropy / max(teacher.rows_tnd.shape[:2].numel(), 1)


def _logits(rows_snd: Tensor, v_kd: Tensor, scale_k: Tensor) -> Tensor:
    """`scale * (rows @ v^T)`, at least float32."""
    logits_snk = F.linear(rows_snd.to(v_kd.dtype), v_kd)
    return logits_snk.to(torch.promote_types(rows_snd.dtype, torch.float32)).mul_(scale_k)


def _add_product(sum_kd: Tensor, left_kn: Tensor, right_nd: Tensor) -> None:
    """`sum += left @ right` for factors of any type."""
    if left_kn.dtype == sum_kd.dtype:
        sum_kd.addmm_(left_kn, right_nd)
    else:
        sum_kd += left_kn @ right_nd


def _squeeze(
    student: Prototypes, patches_smd: Tensor, weight: float, gradient_smd: Tensor, gradient_kd: Tensor
) -> Tensor:
    """Weighted mean of `(W (z_1 - z_2))^2` from the Gram matrix of W; adds to the gradients of rows and of v."""
    if weight == 0 or len(patches_smd) < 2 or not patches_smd.shape[1]:
        return gradient_kd.new_zeros(())
    difference_md = patches_smd[0] - patches_smd[1]
    factor = weight / (len(difference_md) * len(student.v_kd))
    square_k1 = student.scale_k().square()[:, None]
    parts = [slice(start, start + GRAM_ROWS) for start in range(0, len(square_k1), GRAM_ROWS)]
    gram_dd = difference_md.new_zeros(2 * difference_md.shape[1:])
    for part in parts:
        gram_dd.addmm_((student.v_kd[part] * square_k1[part]).T, student.v_kd[part])
    product_md = difference_md @ gram_dd
    gradient_smd[0] += 2 * factor * product_md
    gradient_smd[1] -= 2 * factor * product_md
    outer_dd = difference_md.T @ difference_md
    for part in parts:
        gradient_kd[part].addmm_(student.v_kd[part] * square_k1[part], outer_dd, alpha=2 * factor)
    return factor * (difference_md * product_md).sum()


def _through_normalization(student: Prototypes, gradient_kd: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of g and v from that of v at fixed `g / |v|`; the second one overwrites `gradient_kd`."""
    g_k1, v_kd = student
    along_k1 = torch.einsum("kd,kd->k", v_kd, gradient_kd)[:, None]
    length_k1 = v_kd.norm(dim=1, keepdim=True).clamp_min(1e-12)
    gradient_kd.addcmul_(v_kd, along_k1 / length_k1.square(), value=-1)
    return along_k1 / g_k1, gradient_kd


class _AllRows(torch.autograd.Function):
    """Differentiable all-gather of rows (B, D) to (ranks * B, D), B equal on all ranks.

    PyTorch's own differentiable gathers are deprecated or private.
    """

    @staticmethod
    def forward(ctx: Any, rows_bd: Tensor) -> Tensor:  # noqa: ANN401 - a context of torch
        ctx.rows = len(rows_bd)
        gathered = [torch.empty_like(rows_bd) for _ in range(distributed.get_world_size())]
        distributed.all_gather(gathered, rows_bd.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, gradient_nd: Tensor) -> Tensor:  # noqa: ANN401
        summed_nd = gradient_nd.clone()
        distributed.all_reduce(summed_nd)
        return summed_nd[distributed.get_rank() * ctx.rows :][: ctx.rows]


def koleo_loss(features_bd: Tensor, epsilon: float = 1e-8, across_ranks: bool = False) -> Tensor:
    """KoLeo regularizer `-(1/B) sum log(d_i + epsilon)` of L2-normalized features (B, D), in float32.

    d_i is the distance to the nearest other row. By default neighbours are looked for in `features_bd` only, as in the
    released code, so the loss of several ranks is the mean of their own losses. With `across_ranks` they are looked for
    in the rows of all ranks, B each; the mean over ranks is then the loss of the global batch, gradients included.
    A single row has no neighbour: the loss is 0.
    """
    with torch.autocast(features_bd.device.type, enabled=False):
        unit_bd = F.normalize(features_bd.float(), eps=epsilon, dim=-1)
        others_nd, first = unit_bd, 0
        if across_ranks and distributed.is_initialized():
            others_nd = _AllRows.apply(unit_bd)  # type: ignore[no-untyped-call]
            first = distributed.get_rank() * len(unit_bd)
        if len(others_nd) < 2:
            return features_bd.sum() * 0
        with torch.no_grad():
            similarity_bn = unit_bd @ others_nd.T
            similarity_bn[:, first : first + len(unit_bd)].fill_diagonal_(-1)
            nearest = similarity_bn.argmax(dim=1)
        distances = F.pairwise_distance(unit_bd, others_nd[nearest], eps=epsilon)
        return -(distances + epsilon).log().mean()
