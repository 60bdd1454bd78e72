"""The losses of T-CoRe: KoLeo, and distillation over K prototypes without K-wide logits outside a part of the rows.

A row is a projection on the unit sphere; its logits are cosines to weight-normalized prototypes. `prototype_losses`
processes the rows in parts and computes the gradients in the same pass, so nothing K-wide is kept for the backward
pass and nothing is computed twice. The squeeze loss needs no logits: `|W d|^2 = d^T (W^T W) d`.

Shape letters: N sets of S student rows and T teacher rows (views of a clip, or frames of a patch), M masked patches,
K prototypes, D width of the projection, B clips.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

PART = {"cpu": 1 << 23, "cuda": 1 << 27}
"""Elements of the widest tensor in a part: 128 rows of 65,536 logits on the CPU, 2,048 on a GPU (512 MiB)."""


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


Layer = tuple[Tensor, Tensor]
"""Directions v (K, D) in the type of the products, and the factors (K,) of their products with rows."""


class Classifier(NamedTuple):
    """Last layer of a head, and the temperature of the softmax over its logits."""

    prototypes: Prototypes
    temperature: float

    def layer(self, dtype: torch.dtype) -> Layer:
        """What makes rows into logits over the temperature."""
        return self.prototypes.v_kd.to(dtype), self.prototypes.scale_k() / self.temperature


@dataclass(frozen=True)
class Distillation:
    """N sets of S student rows that are trained to predict T teacher rows each, and the weight of each pair of rows.

    The soft targets of a teacher row are `softmax((logits - center) / temperature)`.
    """

    student_snd: Tensor
    teacher_tnd: Tensor
    center_k: Tensor
    weights_n: Tensor
    """(N,) weight of each set."""
    pairs_st: Tensor | None = None
    """(S, T) 1 where student row s of a set predicts teacher row t of the set, else 0. Default: all, where T = 1."""

    def without_rows(self) -> "Distillation":
        """The same with no sets of rows."""
        return replace(
            self,
            student_snd=self.student_snd[:, :0],
            teacher_tnd=self.teacher_tnd[:, :0],
            weights_n=self.weights_n[:0],
        )


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
    student: Classifier,
    teacher: Classifier,
    cls: Distillation,
    patches: Distillation,
    squeeze_weight: float = 0.0,
    compiled: bool = False,
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
        student: last layer of the student's head.
        teacher: last layer of the teacher's head.
        cls: projected CLS tokens of the student's views, and their targets.
        patches: projected masked patches, restored from each of S auxiliary frames, and their targets.
        squeeze_weight: weight of the squeeze loss.
        compiled: whether `torch.compile` fuses the passes over the logits; else they run one by one.
    """
    rows = (cls.student_snd, patches.student_snd)
    options = (student.temperature, teacher, (cls, patches), squeeze_weight, compiled)
    return PrototypeLosses(*_PrototypeLosses.apply(*student.prototypes, *rows, *options))  # type: ignore[no-untyped-call]


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
        teacher: Classifier,
        distillations: tuple[Distillation, Distillation],
        squeeze_weight: float,
        compiled: bool,
    ) -> tuple[Tensor, ...]:
        kind = v_kd.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else v_kd.dtype
        wide = torch.promote_types(v_kd.dtype, torch.float32)
        student = Classifier(Prototypes(g_k1.to(wide), v_kd.to(wide)), temperature)
        with torch.autocast(kind, enabled=False):
            gradient_kd = torch.zeros_like(student.prototypes.v_kd)  # at fixed g / |v|, to begin with
            layers = student.layer(dtype), teacher.layer(dtype)
            losses, row_gradients, entropies = [], [], []
            for rows in distillations:
                losses_s, gradient_snd, entropy = _distil(*layers, gradient_kd, rows, teacher.temperature, compiled)
                losses.append(losses_s)
                row_gradients.append(gradient_snd)
                entropies.append(entropy)
            del layers
            squeeze = _squeeze(student.prototypes, patches_smd, squeeze_weight, row_gradients[1], gradient_kd)
            gradient_k1, gradient_kd = _through_normalization(student.prototypes, gradient_kd)
        ctx.gradients = (gradient_k1.to(g_k1.dtype), gradient_kd.to(v_kd.dtype), *row_gradients)
        ctx.mark_non_differentiable(*losses, squeeze, *entropies)
        total = losses[0].sum() + losses[1].sum() + squeeze
        return total, *losses, squeeze, *entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gradients, ctx.gradients = ctx.gradients, None
        torch._foreach_mul_(gradients, upstream)
        return *gradients, None, None, None, None, None


def _distil(
    student: Layer,
    teacher: Layer,
    gradient_kd: Tensor,
    rows: Distillation,
    teacher_temperature: float,
    compiled: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (S,), gradients with respect to the student's rows (S, N, D) and mean entropy of the targets.

    Adds the gradient with respect to `v`, at fixed `g / |v|`, to `gradient_kd`.
    """
    student_snd, weights_n = rows.student_snd, rows.weights_n.to(gradient_kd)
    (frames, sets), (prototypes, dtype) = student_snd.shape[:2], (len(gradient_kd), student[0].dtype)
    if not sets:
        return gradient_kd.new_zeros(frames), torch.zeros_like(student_snd), gradient_kd.new_zeros(())
    shift_k = rows.center_k.to(gradient_kd) / -teacher_temperature
    pairs_st = None if rows.pairs_st is None else rows.pairs_st.to(gradient_kd)
    inputs = (student_snd, student_snd * weights_n[:, None], rows.teacher_tnd)
    parts = min(sets, -(-sets * frames * prototypes // PART[gradient_kd.device.type]))
    split = [rows_snd.to(dtype).tensor_split(parts, dim=1) for rows_snd in inputs]
    run = _compiled_part() if compiled else _distil_part
    done = [run(student, teacher, shift_k, pairs_st, gradient_kd, *part) for part in zip(*split, strict=True)]
    losses_sn, gradient_snd, entropies_tn = (torch.cat(results, dim=1) for results in zip(*done, strict=True))
    return losses_sn @ weights_n, (gradient_snd * weights_n[:, None]).to(student_snd.dtype), entropies_tn.mean()


@functools.cache
def _compiled_part() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    compiled = torch.compile(_distil_part, fullgraph=True)

    def run(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401 - those of `_distil_part`
        for rows_snd in arguments[-3:]:
            torch._dynamo.maybe_mark_dynamic(rows_snd, 1)  # the number of masked patches changes with every batch
        return compiled(*arguments)

    return run


def _distil_part(
    student: Layer,
    teacher: Layer,
    shift_k: Tensor,
    pairs_st: Tensor | None,
    gradient_kd: Tensor,
    student_snd: Tensor,
    weighted_snd: Tensor,
    teacher_tnd: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (S, N), gradients (S, N, D) and entropies (T, N) of some sets, before their weights.

    Eager, each line is a pass over the logits, so several share one and most are in place; compiled, few are left.
    """
    (v_kd, scale_k), (teacher_v_kd, teacher_scale_k) = student, teacher
    log_targets_tnk = F.log_softmax(
        torch.addcmul(shift_k, F.linear(teacher_tnd, teacher_v_kd), teacher_scale_k), dim=-1
    )
    targets_snk = log_targets_tnk.exp()
    entropies_tn = -_dot(targets_snk, log_targets_tnk)
    del log_targets_tnk
    if pairs_st is not None:
        targets_snk = torch.einsum("st,tnk->snk", pairs_st, targets_snk)
    log_softmax_snk = F.log_softmax(F.linear(student_snd, v_kd) * scale_k, dim=-1)
    losses_sn = -_dot(targets_snk, log_softmax_snk)
    slopes_snk = log_softmax_snk.exp_()  # of the cross-entropy with respect to row @ v, once the next lines are done
    if pairs_st is not None:
        slopes_snk.mul_(pairs_st.sum(dim=1)[:, None, None])
    slopes_snk.sub_(targets_snk)
    del targets_snk
    slopes = torch.mul(slopes_snk, scale_k, out=torch.empty_like(slopes_snk, dtype=v_kd.dtype)).flatten(0, 1)
    if slopes.dtype == gradient_kd.dtype:
        gradient_kd.addmm_(slopes.T, weighted_snd.flatten(0, 1))
    else:
        gradient_kd.add_(slopes.T @ weighted_snd.flatten(0, 1))
    return losses_sn, (slopes @ v_kd).view_as(student_snd), entropies_tn


def _dot(left_snk: Tensor, right_snk: Tensor) -> Tensor:
    """Sums of products over the last axis; the first axis of the left may be 1. The products are never stored."""
    if torch.compiler.is_compiling():
        return (left_snk * right_snk).sum(dim=-1)
    return torch.einsum("snk,snk->sn", left_snk, right_snk)


def _squeeze(
    student: Prototypes, patches_smd: Tensor, weight: float, gradient_smd: Tensor, gradient_kd: Tensor
) -> Tensor:
    """Weighted mean of `(W (z_1 - z_2))^2` from the Gram matrix of W; adds to the gradients of rows and of v."""
    if weight == 0 or len(patches_smd) < 2 or not patches_smd.shape[1]:
        return gradient_kd.new_zeros(())
    difference_md = patches_smd[0] - patches_smd[1]
    factor = weight / (len(difference_md) * len(student.v_kd))
    scale_k1 = student.scale_k()[:, None]
    weight_kd = student.v_kd * scale_k1
    product_md = difference_md @ (weight_kd.T @ weight_kd)
    gradient_kd.addmm_(weight_kd.mul_(scale_k1), difference_md.T @ difference_md, alpha=2 * factor)
    gradient_smd[0] += 2 * factor * product_md
    gradient_smd[1] -= 2 * factor * product_md
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
