import pytest

from training.profiler import Event, busy_us, summarize, table


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
    assert figures["ranges"] == {}


def test_ranges_have_their_time_on_host_and_device_and_are_no_kernels() -> None:
    ranges = [
        *(Event("student", False, 0, 400, 10, True), Event("student", False, 500, 700, 10, True)),
        *(Event("student", True, 100, 3100, 0, True), Event("EMA", False, 800, 900, 0, True)),
    ]
    figures = summarize([on_device("gemm", 100, 3100), *ranges], steps=2)
    assert list(figures["ranges"].items()) == [
        ("student", {"host_ms": pytest.approx(0.3), "device_ms": pytest.approx(1.5)}),
        ("EMA", {"host_ms": pytest.approx(0.05), "device_ms": 0}),
    ]
    assert [kernel["name"] for kernel in figures["largest"]] == ["gemm"]
    assert dict(table(figures))["student"] == "0.30 ms on the host, 1.50 ms on the device"
