import json
import subprocess
import sys
from pathlib import Path

GPU = "import pytest\n"
FILES = {
    "test_some.py": GPU
    + """
@pytest.mark.gpu
def test_good(): pass
@pytest.mark.gpu
def test_bad(): assert 1 == 2
@pytest.mark.gpu
def test_without(): pytest.skip("no GPU")
@pytest.fixture
def broken(): raise OSError
@pytest.mark.gpu
def test_never_begun(broken): pass
def test_of_the_cpu(): assert False
""",
    "test_absent.py": GPU + "import no_such_package\n@pytest.mark.gpu\ndef test_it(): pass\n",
    "test_cpu_only.py": "raise RuntimeError\n",
}


def run(folder: Path) -> tuple[int, dict[str, list[str]]]:
    """Exit status, and the names of tests without the folder."""
    out = folder / "result.json"
    command = [sys.executable, "-m", "benchmarks.gpu_tests", f"--out={out}", f"--folder={folder}"]
    status = subprocess.run(command, capture_output=True).returncode
    result = json.loads(out.read_text())
    kinds = ("passed", "failed", "skipped", "not_here")
    return status, {kind: [name.rpartition("/")[2].rpartition("::")[2] for name in result[kind]] for kind in kinds}


def test_tests_are_counted_by_how_they_end(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    status, counted = run(tmp_path)
    assert status == 1
    assert counted == {
        "passed": ["test_good"],
        "failed": ["test_bad", "test_never_begun"],
        "skipped": ["test_without"],
        "not_here": ["test_absent.py: no_such_package"],
    }


def test_a_missing_package_alone_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "test_absent.py").write_text(FILES["test_absent.py"])
    assert run(tmp_path)[0] == 0
