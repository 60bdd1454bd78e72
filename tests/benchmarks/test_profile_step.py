import json
from pathlib import Path

import pytest
import torch

from benchmarks import profile_step
from benchmarks.profile_step import Event, ProfileBenchmark, busy_us, main, summarize, table


def on_device(name: str, start: float, end: float) -> Event:
    return Event(name, True, start, end, end - start)


def on_host(name: str, start: float, end: float) -> Event:
    return Event(name, False, start, end, end - start)


def test_overlapping_kernels_keep_the_device_busy_once() -> None:
    events = [on_device("a", 0, 10), on_device("b", 5, 8), on_device("a", 9, 20), on_device("b", 30, 40)]
    assert busy_us(events) == 30
    assert busy_us(events[::-1]) == 30


def test_a_profile_counts_launches_waits_and_idle_time_by_step() -> None:
    events = [
        *(on_device("gemm", 0, 60), on_device("copy", 60, 70), on_device("gemm", 90, 100)),
        *(on_host("cudaLaunchKernel", 0, 1), on_host("cuLaunchKernelEx", 1, 2), on_host("cudaGraphLaunch", 2, 3)),
        *(on_host("cudaLaunchKernelExC", 3, 4), on_host("cudaMemcpyAsync", 4, 5), on_host("aten::mm", 0, 50)),
        *(
            on_host("cudaStreamSynchronize", 5, 505),
            on_host("cudaEventSynchronize", 0, 500),
            on_host("cudaMemcpy", 0, 1),
        ),
    ]
    figures = summarize(events, steps=2)
    assert figures["launches_per_step"] == 2
    assert (figures["waits_per_step"], figures["wait_ms_per_step"]) == (1.5, pytest.approx(1.001 / 2))
    assert figures["idle_share"] == pytest.approx(0.2)
    gemm, copy = figures["largest"]
    assert gemm == {"name": "gemm", "share": 0.875, "ms_per_step": pytest.approx(0.035), "calls_per_step": 1}
    assert (copy["name"], copy["share"]) == ("copy", 0.125)
    assert "idle 20.0 % of the time" in dict(table(figures))["kernels"]


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
