import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pipeline.boundary import lasting_output

with lasting_output():
    for _ in range(3000):
        print("caf\\u00e9 \\udcff", flush=True)
    print("message", file=sys.stderr)
    open(sys.argv[0] + ".done", "w").close()
    raise SystemExit(3)
"""


@pytest.mark.parametrize("to", ["ascii", "utf-8", "pipe", "full", "closed"])
def test_printing_never_ends_a_job(tmp_path: Path, to: str) -> None:
    program = tmp_path / "job.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONIOENCODING": to if to in ("ascii", "utf-8") else "utf-8"}
    ends = {"pipe": "| true", "full": "> /dev/full", "closed": ">&-"}
    shell = f'set -o pipefail; "$0" "$1" {ends.get(to, "")}'
    job = subprocess.run(["bash", "-c", shell, sys.executable, program], env=environment, capture_output=True)
    assert (job.returncode, job.stderr) == (3, b"message\n")
    assert program.with_name("job.py.done").exists()
    if to in ("ascii", "utf-8"):
        assert job.stdout.splitlines()[-1] == "caf\u00e9 \\udcff".encode(to, "backslashreplace")
