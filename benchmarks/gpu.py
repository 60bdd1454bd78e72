"""`python -m benchmarks.gpu` or `make bench-gpu`: all measurements that need a GPU, in one run of under eight minutes.

Starts with the standard library alone and says in one sentence what is missing; `benchmarks/gpu_run.py` does the rest.
"""

import sys
from importlib.util import find_spec

from benchmarks.requirements import STAGE_ONLY, module_of, of_gpu_benchmarks


def is_installed(module: str) -> bool:
    """Whether a module can be imported, as far as that is known without importing it."""
    try:
        return find_spec(module) is not None
    except ImportError:  # its parent package is missing
        return False


def main() -> int:
    """Run the benchmarks, or name the packages without which they cannot start; returns the exit status."""
    missing = [name for name in of_gpu_benchmarks() if not is_installed(module_of(name))]
    names = ", ".join(missing)
    if set(missing) - STAGE_ONLY:
        print(
            f"error: {sys.executable} lacks {names}: run `make wheelhouse` on a machine with a network, copy the "
            "folder here and install from it as its README.txt says, or choose another Python",
            file=sys.stderr,
        )
        return 2
    if missing:
        print(f"note: {sys.executable} lacks {names}: stages that need it are skipped (`make wheelhouse`)")
    from benchmarks.gpu_run import GpuBenchmark, run
    from pipeline.settings import run_command

    return run_command(GpuBenchmark, run)


if __name__ == "__main__":
    raise SystemExit(main())
