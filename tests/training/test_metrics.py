import json
from pathlib import Path

from training.metrics import METRICS, keep_metrics, read_metrics


def test_steps_that_are_done_again_are_dropped_and_a_torn_line_is_not_read(tmp_path: Path) -> None:
    lines = [json.dumps({"step": step, "loss/total": 0.5 * step}) for step in range(1, 6)]
    (tmp_path / METRICS).write_text("\n".join([*lines, '{"step": 6, "lo']))
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    keep_metrics(tmp_path, last_step=3)
    assert (tmp_path / METRICS).read_text().splitlines() == lines[:3]


def test_a_new_run_has_no_metrics(tmp_path: Path) -> None:
    keep_metrics(tmp_path, last_step=0)
    assert not (tmp_path / METRICS).exists()
