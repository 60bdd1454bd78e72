import json
from pathlib import Path

import torch

from benchmarks.counts import Counting, Traffic, count_step, traffic_of

aten = torch.ops.aten
FLOATS = torch.zeros(100)


def test_an_operation_counts_what_it_reads_and_writes() -> None:
    assert traffic_of(aten.add.Tensor, (FLOATS, FLOATS + 1), FLOATS + 2) == Traffic(1, 1200)
    assert traffic_of(aten.exp_.default, (FLOATS,), FLOATS) == Traffic(1, 800)
    assert traffic_of(aten.zero_.default, (FLOATS,), FLOATS) == Traffic(1, 400)
    assert traffic_of(aten.mul.out, (FLOATS, FLOATS + 1, {"out": FLOATS + 2}), FLOATS) == Traffic(1, 1200)
    assert traffic_of(aten._foreach_mul_.Scalar, ([FLOATS, FLOATS + 1], 2.0), None) == Traffic(1, 1600)
    assert traffic_of(aten.t.default, (FLOATS,), FLOATS) == Traffic(0, 0)


def test_a_step_counts_its_losses_apart() -> None:
    counting = Counting()
    with counting:
        FLOATS + 1
        counting.in_losses = True
        FLOATS + 1
    assert (counting.step["launches"], counting.losses["launches"]) == (2, 1)


def test_compiled_losses_move_less_than_half_of_what_eager_ones_do() -> None:
    figures = json.loads(Path("benchmarks/results/counts.json").read_text())
    for architecture in ("small", "base"):
        eager, compiled = (figures[architecture][form]["losses"] for form in ("eager", "compiled"))
        assert compiled["bytes"] < 0.5 * eager["bytes"]
        assert compiled["launches"] < eager["launches"]


def test_a_small_step_is_counted() -> None:
    step, losses = count_step("tiny", 2, compiled=True).values()
    assert 0 < losses["launches"] < 0.1 * step["launches"]
    assert 0 < losses["bytes"] < step["bytes"]
