"""Score features on a benchmark or by a probe, or look at them: `python -m evaluation NAME --help`."""

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


def _look() -> NoReturn:
    from evaluation.look.command import LookCommand, run_look  # loads ffmpeg, which scoring does without

    run_command(LookCommand, run_look)


OTHERS: Mapping[str, Callable[[], NoReturn]] = {
    "knn": lambda: run_command(KnnProbeCommand, run_knn),
    "linear": lambda: run_command(LinearProbeCommand, run_linear),
    "look": _look,
}
"""Programs that need no benchmark."""


def usage(benchmarks: Sequence[Benchmark], program: str) -> str:
    """The text of `--help` without a benchmark."""
    names = _names(benchmarks)
    others = (
        f"       {program} {{knn,linear}} --shards DIR --shards_test DIR --weights FILE[,FILE...] --out DIR [options]\n"
        f"       {program} look VIDEO [VIDEO...] --weights FILE[,FILE...] --out DIR [options]\n"
    )
    about_others = "; knn and linear classify samples of shards; look shows the features of any video"
    scores = "; ".join(f"{benchmark.name}: {benchmark.title}, {benchmark.measures}" for benchmark in benchmarks)
    return (
        f"usage: {program} {names} --data DIR --weights FILE[,FILE...] --out DIR [options]\n"
        f"       {program} score {names} --data DIR --predictions DIR [--out DIR] [options]\n"
        f"{others if program == PROGRAM else ''}{scores}.\n"
        "The first form propagates the labels of the first frame with the features of the weights; score takes "
        f"predictions from disk{about_others if program == PROGRAM else ''}.\n"
        "NAME --help lists the options of each"
    )


def _names(benchmarks: Sequence[Benchmark]) -> str:
    return "{" + ",".join(benchmark.name for benchmark in benchmarks) + "}"


def main(benchmarks: Sequence[Benchmark] = BENCHMARKS, program: str = PROGRAM) -> NoReturn:
    """Run the benchmark that the command line names."""
    words = sys.argv[1:]
    if words and words[0] in ("-h", "--help"):
        print(usage(benchmarks, program))
        raise SystemExit(0)
    if program == PROGRAM and words[:1] and words[0] in OTHERS:
        del sys.argv[1]
        OTHERS[words[0]]()
    score = words[:1] == ["score"]
    name = next(iter(words[int(score) :]), "")
    benchmark = next((benchmark for benchmark in benchmarks if benchmark.name == name), None)
    if benchmark is None:
        names = _names(benchmarks)
        *allowed, last = [names, f"score {names}", *(OTHERS if program == PROGRAM else ())]
        problem = f"unknown benchmark {name}" if name and not name.startswith("-") else "no benchmark given"
        print(f"error: {problem}; allowed are {', '.join(allowed)} and {last}; see --help", file=sys.stderr)
        raise SystemExit(2)
    del sys.argv[1 : 2 + int(score)]
    if score:
        run_command(score_command(benchmark, program), lambda command: run_predictions(benchmark, command))
    run_command(evaluation_command(benchmark, program), lambda command: run_weights(benchmark, command))


if __name__ == "__main__":
    main()
