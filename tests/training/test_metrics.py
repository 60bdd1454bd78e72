import json
import math
from pathlib import Path

import pytest
import torch

from training.metrics import METRICS, effective_rank, keep_metrics, read_metrics


def test_lines_of_repeated_steps_are_dropped_and_a_torn_line_is_skipped(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss/total": 0.5 * step}) for step in range(1, 6)]
    (tmp_path / METRICS).write_text("\n".join([*lines, '{"step": 6, "lo']))
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    keep_metrics(tmp_path, last_step=3)
    assert (tmp_path / METRICS).read_text().splitlines() == lines[:3]


def test_a_new_run_has_no_metrics(tmp_path: Path) -> None:
    keep_metrics(tmp_path, last_step=0)
    assert not (tmp_path / METRICS).exists()


def test_effective_rank_counts_directions() -> None:
    rows = torch.eye(5, 7)
    assert effective_rank(rows) == pytest.approx(5, rel=1e-5)
    assert effective_rank(torch.ones(5, 7)) == pytest.approx(1, rel=1e-3)
    shares = torch.tensor([0.5, 0.25, 0.25])
    entropy = -(shares * shares.log()).sum().item()
    assert effective_rank(torch.diag(4 * shares)) == pytest.approx(math.exp(entropy), rel=1e-5)
    assert math.isnan(effective_rank(torch.full((2, 2), math.nan)))
