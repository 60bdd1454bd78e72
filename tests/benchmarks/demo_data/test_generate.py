import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.demo_data.__main__ import DemoDataCommand
from benchmarks.demo_data.generate import RECORD, DemoSettings, clip_id, generate
from pipeline.files import TEMPORARY_PREFIX, sha256_file
from pipeline.settings import UserError, parse_command
from tests.processes import heed_ctrl_c, left_in_session

SMALL = DemoSettings(seed=3, clips=2, images_per_class=1, sequences=1)


def digest(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "data"
    generate(SMALL, out, workers=2)
    return out


def test_trees_have_the_layouts_of_the_real_data_sets(small: Path) -> None:
    names = list(digest(small))
    patterns = {
        r"kinetics/train/[a-z ]+/[\w-]{11}_\d{6}_\d{6}\.mp4": 2,
        r"imagenet/train/(n\d{8})/\1_\d+\.JPEG": 8,
        r"davis/JPEGImages/480p/car-00/\d{5}\.jpg": 24,
        r"davis/Annotations/480p/car-00/\d{5}\.png": 24,
        r"vip/Images/videos1/\d{12}\.jpg": 24,
        r"vip/Category_ids/videos1/\d{12}\.png": 24,
        r"jhmdb/Rename_Images/walk/demo_walk_00/\d{5}\.png": 24,
        r"jhmdb/joint_positions/walk/demo_walk_00/joint_positions\.mat": 1,
        r"davis/ImageSets/2017/val\.txt|vip/lists/val_videos\.txt|jhmdb/splits/walk_test_split1\.txt": 3,
        r"demo_data\.json": 1,
    }
    counts = {pattern: sum(bool(re.fullmatch(pattern, name)) for name in names) for pattern in patterns}
    assert counts == patterns
    assert sum(counts.values()) == len(names)
    assert (small / "davis/ImageSets/2017/val.txt").read_text() == "car-00\n"
    assert (small / "jhmdb/splits/walk_test_split1.txt").read_text() == "demo_walk_00.avi 2\n"


def test_missing_files_are_made_again_with_the_same_bytes(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(small, out)
    for pattern in ("*.mp4", "*.JPEG", "*.mat"):
        next(out.rglob(pattern)).unlink()
    (out / "kinetics" / f"{TEMPORARY_PREFIX}left-by-a-killed-process").write_bytes(b"half")
    kept = next(out.rglob("*.mp4")).stat().st_mtime_ns
    generate(SMALL, out, workers=1)
    assert digest(out) == digest(small)
    assert kept in {path.stat().st_mtime_ns for path in out.rglob("*.mp4")}


def test_finished_data_is_left_alone_and_other_data_refused(small: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    assert "up to date" in generate(SMALL, small)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before
    with pytest.raises(UserError, match=r"holds demo data made with other settings: .*\(recorded\)"):
        generate(DemoSettings(seed=4), small)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        generate(SMALL, tmp_path)
    with pytest.raises(UserError, match="is a file"):
        generate(SMALL, tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="cannot write /proc"):
        generate(SMALL, Path("/proc/demo"))


def test_some_ids_begin_with_a_dash() -> None:
    ids = [clip_id(np.random.default_rng(number), number) for number in range(48)]
    assert all(re.fullmatch(r"[\w-]{11}", name) for name in ids)
    assert sum(name.startswith("-") for name in ids) >= 6


def test_command_line(tmp_path: Path) -> None:
    command = parse_command(DemoDataCommand, [str(tmp_path), "--clips", "480", "--images_per_class", "100"])
    assert (command.out, command.clips, command.images_per_class, command.seed) == (tmp_path, 480, 100, 0)
    with pytest.raises(UserError, match="clips"):
        parse_command(DemoDataCommand, [str(tmp_path), "--clips", "0"])


def test_interrupt_leaves_no_partial_file_and_no_process(tmp_path: Path) -> None:
    out = tmp_path / "data"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.demo_data", str(out), "--clips", "40", "--sequences", "1"],
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not any(out.rglob(f"{TEMPORARY_PREFIX}*.mp4-*")):  # ffmpeg is writing
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does at Ctrl-C
    message = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert "Traceback" not in message
    assert left_in_session(process.pid) == []
    names = [path.name for path in out.rglob("*") if path.is_file()]
    assert not [name for name in names if name.startswith(TEMPORARY_PREFIX)]
    assert RECORD in names
