"""`make bench-counts`: operations, bytes and floating-point operations of a training step, without taking one.

Fake tensors have shapes but no values, so a step of the paper's sizes is counted in seconds on any machine. An
operation counts what it reads and writes in whole; views and allocations are free. `foreach` and fused operations count
once. The compiled form of the losses is counted from the kernels that inductor forms of the same passes for this
machine's CPU.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from benchmarks.flops import step_flops
from benchmarks.result import report
from benchmarks.train import TrainBenchmark, model_settings, random_batch, train_step
from pipeline.sampling.views import ViewSettings
from pipeline.settings import Command, run_command
from training import losses
from training.losses import _distil_part
from training.masks import locate_masked_patches
from training.model import TCoRe
from training.optimizer import OptimizerSettings, build_optimizer

aten = torch.ops.aten
FREE = {"detach", "alias", "lift_fresh", "_unsafe_view", "_fused_sdp_choice", "_record_function_enter_new"} | {
    "_record_function_exit",
    "device",
    "promote_types",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
}
"""Operations that start no kernel, besides views."""
OVERWRITING = {"copy_", "fill_", "zero_"}
"""Operations in place that do not read what they replace."""


class CountsCommand(Command):
    """Count operations, bytes and floating-point operations of training steps at the paper's sizes."""

    program: ClassVar[str] = "python -m benchmarks.counts"

    out: Path = Path("benchmarks/results/counts.json")
    """Result file."""


class Traffic(NamedTuple):
    """What a GPU has to do."""

    launches: int
    bytes: int


def traffic_of(function: Any, arguments: Any, results: Any) -> Traffic:  # noqa: ANN401 - of any operation
    """Launches and bytes of one call of an ATen operation."""
    name = function.overloadpacket.__name__
    if function.is_view or name in FREE:
        return Traffic(0, 0)
    written = {id(tensor): tensor for tensor in tree_leaves(results) if isinstance(tensor, Tensor)}
    read = {id(tensor): tensor for tensor in tree_leaves(arguments) if isinstance(tensor, Tensor)}
    if name in OVERWRITING or function._overloadname == "out":
        read = {key: tensor for key, tensor in read.items() if key not in written}
    elif name.startswith("_f") and name.endswith("_"):  # foreach and fused, in place, return nothing
        written = read
    sizes = (tensor.numel() * tensor.element_size() for tensor in (*read.values(), *written.values()))
    return Traffic(1, sum(sizes))


class Counting(TorchDispatchMode):
    """Adds up the traffic of all operations, and of those inside the prototype losses."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.step, self.losses = Counter[str](), Counter[str]()
        self.in_losses = False

    def add(self, traffic: Traffic) -> None:
        """Count work."""
        for counter in (self.step, self.losses) if self.in_losses else (self.step,):
            counter.update(traffic._asdict())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        self.add(traffic_of(func, (args, kwargs), result))
        return result


def fused_traffic(arguments: tuple[Any, ...], fake_mode: FakeTensorMode) -> Traffic:
    """Kernels and bytes that inductor needs for `_distil_part`, by its own account of what each reads and writes."""
    from torch._inductor import graph as inductor
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.virtualized import V

    leaves, structure = tree_flatten(arguments)
    tensors = [leaf for leaf in leaves if leaf is not None]

    def passes(*given: Tensor) -> list[Tensor]:
        remaining = iter(given)
        whole = tree_unflatten([None if leaf is None else next(remaining) for leaf in leaves], structure)
        return list(_distil_part(*whole))

    with mock.patch.object(torch.compiler, "is_compiling", return_value=True):
        traced = make_fx(torch.func.functionalize(passes), select_decomp_table())(*tensors)
    traced.graph.set_codegen(CodeGen())
    lowering = inductor.GraphLowering(traced, example_inputs=tensors)
    with DebugContext(), V.set_graph_handler(lowering), V.set_fake_mode(fake_mode):
        lowering.run(*tensors)
        lowering._update_scheduler()
        total, kernels, _ = lowering.count_bytes()
    return Traffic(len(kernels), total)


def count_step(architecture: Literal["tiny", "small", "base"], clips: int, compiled: bool) -> dict[str, dict[str, int]]:
    """Counts of a whole bf16 step and of its prototype losses, which alone are compiled."""
    command = TrainBenchmark(architecture=architecture, batch_size=clips)
    with torch.device("meta"):
        model = TCoRe(model_settings(command))
    masks = random_batch(clips, ViewSettings(global_size=224, local_size=16), "cpu").masks
    masked = locate_masked_patches(masks, masks.device)
    counting = Counting()
    plain = losses.prototype_losses

    def counted_losses(*arguments: Any, **options: Any) -> losses.PrototypeLosses:  # noqa: ANN401
        counting.in_losses = True
        result = plain(*arguments, **options)
        counting.in_losses = False
        return result

    def fused_part(*arguments: Any) -> Any:  # noqa: ANN401
        with torch.utils._python_dispatch._disable_current_modes(), fake_mode:
            counting.add(fused_traffic(arguments, fake_mode))
            return _distil_part(*arguments)

    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    with (
        fake_mode,
        mock.patch.dict(losses.PART, cpu=losses.PART["cuda"]),
        mock.patch("training.model.prototype_losses", counted_losses),
        mock.patch("training.model.locate_masked_patches", return_value=masked),  # of values, which fake tensors lack
        mock.patch.object(losses, "_distil_part", fused_part if compiled else _distil_part),
    ):
        model.to_empty(device="cpu")
        optimizer = build_optimizer(model, OptimizerSettings())
        batch = replace(random_batch(clips, ViewSettings(), "cpu"), masks=masks)
        with counting:
            train_step(model, optimizer, batch, bf16=True)  # the first one makes the optimizer's state
            counting.step.clear()
            counting.losses.clear()
            train_step(model, optimizer, batch, bf16=True)
    return {"step": dict(counting.step), "losses": dict(counting.losses)}


def main(command: CountsCommand) -> None:
    """Count, print and write."""
    figures: dict[str, Any] = {}
    rows = []
    sizes: tuple[tuple[Literal["small", "base"], int], ...] = (("small", 64), ("base", 128))
    for architecture, clips in sizes:
        flops = step_flops(model_settings(TrainBenchmark(architecture=architecture)), clips)
        forms = {form: count_step(architecture, clips, form == "compiled") for form in ("eager", "compiled")}
        figures[architecture] = {"clips": clips, "flops": flops, **forms}
        for form, counts in forms.items():
            for what, count in counts.items():
                name = f"{architecture}, {clips} clips, losses {form}: {what}"
                rows.append((name, f"{count['launches']:,} launches, {count['bytes'] / 1e9:.1f} GB"))
    report(command.out, figures, rows, "Training step in bf16, by count")


if __name__ == "__main__":
    run_command(CountsCommand, main)
