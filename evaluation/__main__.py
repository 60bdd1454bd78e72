"""Score features on a benchmark: `python -m evaluation BENCHMARK --help`."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from evaluation.benchmark import Benchmark
from evaluation.command import PROGRAM, evaluation_command, score_command
from evaluation.davis import DAVIS
from evaluation.jhmdb import JHMDB
from evaluation.program import run_predictions, run_weights
from evaluation.vip import VIP
from pipeline.settings import run_command

BENCHMARKS = (DAVIS, VIP, JHMDB)


def usage(benchmarks: Sequence[Benchmark], program: str) -> str:
    """The text of `--help` without a benchmark."""
    names = _names(benchmarks)
    scores = "; ".join(f"{benchmark.name}: {benchmark.title}, {benchmark.measures}" for benchmark in benchmarks)
    return (
        f"usage: {program} {names} --data DIR --weights FILE[,FILE...] --out DIR [options]\n"
        f"       {program} score {names} --data DIR --predictions DIR [--out DIR] [options]\n"
        f"       {program} look VIDEO [VIDEO...] --weights FILE[,FILE...] --out DIR [options]\n"
        f"{scores}.\nThe first form propagates the labels of the first frame with the features of the weights; score "
        "takes predictions from disk; look shows the features of any video.\n"
        "BENCHMARK --help and look --help list their options"
    )


def _names(benchmarks: Sequence[Benchmark]) -> str:
    return "{" + ",".join(benchmark.name for benchmark in benchmarks) + "}"


def main(benchmarks: Sequence[Benchmark] = BENCHMARKS, program: str = PROGRAM) -> NoReturn:
    """Run the benchmark that the command line names."""
    words = sys.argv[1:]
    if words and words[0] in ("-h", "--help"):
        print(usage(benchmarks, program))
        raise SystemExit(0)
    if words[:1] == ["look"]:
        from evaluation.look.command import LookCommand, run_look  # needs ffmpeg, which scoring does without

        del sys.argv[1]
        run_command(LookCommand, run_look)
    score = words[:1] == ["score"]
    name = next(iter(words[int(score) :]), "")
    benchmark = next((benchmark for benchmark in benchmarks if benchmark.name == name), None)
    if benchmark is None:
        names = _names(benchmarks)
        problem = f"unknown benchmark {name}" if name and not name.startswith("-") else "no benchmark given"
        print(f"error: {problem}; allowed are {names}, score {names} and look; see --help", file=sys.stderr)
        raise SystemExit(2)
    del sys.argv[1 : 2 + int(score)]
    if score:
        run_command(score_command(benchmark, program), lambda command: run_predictions(benchmark, command))
    run_command(evaluation_command(benchmark, program), lambda command: run_weights(benchmark, command))


if __name__ == "__main__":
    main()
