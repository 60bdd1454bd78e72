"""The program: what a dry run writes, and what is left when an upload is killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.publish.__main__ import PublishCommand, main
from pipeline.settings import UserError, parse_command
from tests.pipeline.shards.jobs import contents


def command(folder: Path, *options: str) -> PublishCommand:
    words = [str(folder), "--repo", "me/riders", "--license", "cc-by-4.0", *options]
    return parse_command(PublishCommand, words)


@pytest.fixture
def folder(clip_dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip_dataset, tmp_path / "clips"))


def test_a_dry_run_writes_the_card_and_lists_the_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    main(command(folder, "--dry_run", "true"))
    shown = capsys.readouterr().out
    after = contents(folder)
    card = after.pop("README.md")
    assert after == before
    assert "10 files" in shown, "3 tars, 3 indices, 2 tables, manifest and card"
    assert "nothing was uploaded" in shown
    assert "by their paths on this machine" not in shown
    main(command(folder, "--dry_run", "true"))
    assert contents(folder)["README.md"] == card
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("riders", "my riders"))
    with pytest.raises(UserError, match=r"README\.md was edited: move it away"):
        main(command(folder, "--dry_run", "true"))


def test_a_killed_upload_leaves_the_dataset_as_it_was(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The program is killed while the Hub does not answer; nothing but the card is in the folder."""
    main(command(folder, "--dry_run", "true"))
    expected = contents(folder), capsys.readouterr().out
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        variables = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_x", "HF_HOME": str(folder.parent / "hf")}
        words = ["-m", "pipeline.publish", str(folder), "--repo", "me/riders", "--license", "cc-by-4.0"]
        process = subprocess.Popen([sys.executable, *words], env={**os.environ, **variables})
        try:
            silent.settimeout(60)
            connection, _ = silent.accept()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        connection.close()
    assert contents(folder) == expected[0]
    main(command(folder, "--dry_run", "true"))
    assert (contents(folder), capsys.readouterr().out) == expected


def test_a_hub_that_cannot_be_reached_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"^the upload to me/riders failed: .*run the same command again$"):
        main(command(folder))


def test_what_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match="--license is required"):
        parse_command(PublishCommand, [str(folder), "--repo", "riders"])
    with pytest.raises(UserError, match="repo = 'a/b/c'"):
        parse_command(PublishCommand, [str(folder), "--repo", "a/b/c", "--license", "mit"])
    (folder / "shard-000001.idx").unlink()
    with pytest.raises(UserError, match=r"shard-000001\.idx is missing"):
        main(command(folder, "--dry_run", "true"))
    (folder / "shard-000009.tar").touch()
    with pytest.raises(UserError, match=r"clips holds shard-000009\.tar, which does not belong to this dataset"):
        main(command(folder, "--dry_run", "true"))
