"""Each kind of damage is reported with its location, and nothing else is."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.settings import UserError
from pipeline.storage import open_storage
from pipeline.verify.__main__ import VerifyCommand, main
from tests.pipeline.verify.damage import Copy, expect, findings_in


@pytest.mark.parametrize("dataset", ["clip_dataset", "image_dataset", "triplet_dataset"])
def test_intact_datasets_have_no_findings(
    dataset: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert findings_in(request.getfixturevalue(dataset), capsys) == []


def test_advice_names_the_files_to_restore(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    clips.shard(1).unlink()
    clips.shard(0, "idx").unlink()
    main(VerifyCommand(dataset=str(clips.folder), workers=1))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("what to do: copy shard-000000.idx, shard-000001.tar again from an intact copy")
    assert "remove these files and run the same `make shards` command again" in last
    clips.index.unlink()
    main(VerifyCommand(dataset=str(clips.folder), workers=1))
    assert f"remove {clips.folder} and run the same" in capsys.readouterr().out.splitlines()[-1]


def test_extraneous_files_are_to_be_removed(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    (clips.folder / "shard-000009.tar").touch()
    capsys.readouterr()
    assert main(VerifyCommand(dataset=str(clips.folder), workers=1)) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "what to do: remove the files named above; nothing else is wrong"


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no dataset at"):
        main(VerifyCommand(dataset=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="holds no finished shard dataset"):
        main(VerifyCommand(dataset=str(tmp_path)))
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts" / "job.json").touch()
    with pytest.raises(UserError, match=r"unfinished job: finish it with the same `make shards` command"):
        main(VerifyCommand(dataset=str(tmp_path)))


def test_several_processes_find_the_same_in_the_same_order(clips: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        clips.overwrite(number, 0, "00.jpg", lambda jpeg: b"\0" * len(jpeg))
    alone = findings_in(clips.folder, capsys)
    command = [sys.executable, "-m", "pipeline.verify", str(clips.folder), "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[:-2] == alone


def test_an_object_store(images: Copy, bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    storage = open_storage(f"{bucket}/verified")
    for path in images.folder.iterdir():
        storage.write(path.name, path.read_bytes())
    assert findings_in(f"{bucket}/verified", capsys) == []
    storage.remove("shard-000001.idx")
    expect(findings_in(f"{bucket}/verified", capsys), r"shard-000001\.idx: is missing")
