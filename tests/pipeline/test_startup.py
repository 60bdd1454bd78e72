"""What happens while a program imports its libraries: Ctrl-C, and which of them it loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import heed_ctrl_c

ROOT = Path(__file__).parents[2]
PROGRAMS = [
    ["-m", "pipeline.shards"],
    ["-m", "indexing.knn"],
    ["-m", "training.export"],
    ["-m", "evaluation"],
    ["training/pretrain.py"],
]
STOP = """
import os, signal, sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name in ("yaml", "torch", "accelerate", "numpy"):  # the first of the libraries
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000): pass
            raise ImportError("what a library makes of an exception while it is imported")
sys.meta_path.insert(0, Stop())
"""


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_a_program_ends_in_one_line(program: list[str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(STOP)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    words = [sys.executable, *program]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, preexec_fn=heed_ctrl_c)
    assert (ended.returncode, ended.stderr) == (130, "interrupted before anything was done\n")


def test_other_programs_keep_their_own_handling(tmp_path: Path) -> None:
    program = tmp_path / "notebook.py"
    program.write_text(
        "import signal, pipeline, training, evaluation, indexing\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    subprocess.run([sys.executable, program], check=True, preexec_fn=heed_ctrl_c)


def test_programs_load_ray_torch_and_dali_only_when_they_need_them() -> None:
    program = (
        "import sys, indexing.knn, pipeline.shards.__main__, pipeline.verify.__main__\n"
        "print({'nvidia', 'ray', 'torch'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True) == "set()\n"
