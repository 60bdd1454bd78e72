"""Score features on a benchmark, or by a probe: `python -m evaluation NAME --help`."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from evaluation.benchmark import Benchmark
from evaluation.command import PROGRAM, evaluation_command, score_command
from evaluation.davis import DAVIS
from evaluation.jhmdb import JHMDB
from evaluation.knn import KnnProbeCommand, run_knn
from evaluation.linear import LinearProbeCommand, run_linear
from evaluation.program import run_predictions, run_weights
from evaluation.tapvid import TAPVID
from evaluation.vip import VIP
from pipeline.settings import run_command

BENCHMARKS = (DAVIS, VIP, JHMDB, TAPVID)
PROBES: Mapping[str, Callable[[], NoReturn]] = {
    "knn": lambda: run_command(KnnProbeCommand, run_knn),
    "linear": lambda: run_command(LinearProbeCommand, run_linear),
}
"""Programs that classify samples of shards by their features."""


def usage(benchmarks: Sequence[Benchmark], program: str) -> str:
    """The text of `--help` without a benchmark."""
    names = _names(benchmarks)
    probes = (
        f"       {program} {{{','.join(PROBES)}}} --shards DIR --shards_test DIR --weights FILE[,FILE...] --out DIR\n"
    )
    scores = "; ".join(f"{benchmark.name}: {benchmark.title}, {benchmark.measures}" for benchmark in benchmarks)
    return (
        f"usage: {program} {names} --data DIR --weights FILE[,FILE...] --out DIR [options]\n"
        f"       {program} score {names} --data DIR --predictions DIR [--out DIR] [options]\n"
        f"{probes if program == PROGRAM else ''}{scores}.\n"
        "The first form propagates the labels of the first frame with the features of the weights; score takes "
        "predictions from disk; knn and linear classify samples of shards.\n"
        "NAME --help lists the options of a benchmark or probe"
    )


def _names(benchmarks: Sequence[Benchmark]) -> str:
    return "{" + ",".join(benchmark.name for benchmark in benchmarks) + "}"


def main(benchmarks: Sequence[Benchmark] = BENCHMARKS, program: str = PROGRAM) -> NoReturn:
    """Run the benchmark that the command line names."""
    words = sys.argv[1:]
    if words and words[0] in ("-h", "--help"):
        print(usage(benchmarks, program))
        raise SystemExit(0)
    if program == PROGRAM and words[:1] and words[0] in PROBES:
        del sys.argv[1]
        PROBES[words[0]]()
    score = words[:1] == ["score"]
    name = next(iter(words[int(score) :]), "")
    benchmark = next((benchmark for benchmark in benchmarks if benchmark.name == name), None)
    if benchmark is None:
        names = _names(benchmarks)
        problem = f"unknown benchmark {name}" if name and not name.startswith("-") else "no benchmark given"
        print(f"error: {problem}; allowed are {names} and score {names}; see --help", file=sys.stderr)
        raise SystemExit(2)
    del sys.argv[1 : 2 + int(score)]
    if score:
        run_command(score_command(benchmark, program), lambda command: run_predictions(benchmark, command))
    run_command(evaluation_command(benchmark, program), lambda command: run_weights(benchmark, command))


if __name__ == "__main__":
    main()
