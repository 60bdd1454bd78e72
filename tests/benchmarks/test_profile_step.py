import json
from pathlib import Path

import pytest
import torch

from benchmarks import profile_step
from benchmarks.profile_step import ProfileBenchmark, main


def test_steps_on_the_cpu_are_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layer, inputs, taken = torch.nn.Linear(300, 300), torch.randn(300, 300), []

    def step() -> None:  # of a layer alone: the model takes half a minute
        layer(inputs).square().sum().backward()
        layer.zero_grad()
        taken.append(1)

    monkeypatch.setattr(profile_step, "build_step", lambda command: step)
    out = tmp_path / "profile.json"
    main(ProfileBenchmark(out=out, steps=4))
    assert len(taken) == 2 + 4
    figures = json.loads(out.read_text())
    largest = figures["largest"]
    assert len(largest) == 10
    calls = {kernel["name"]: kernel["calls_per_step"] for kernel in largest}
    assert (calls["aten::addmm"], calls["aten::mm"]) == (1, 1), "the layer forward, and the gradient of its weights"
    shares = [kernel["share"] for kernel in largest]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1
    assert figures["launches_per_step"] == figures["waits_per_step"] == 0
    assert "idle_share" not in figures
    assert largest[0]["name"] in capsys.readouterr().out
