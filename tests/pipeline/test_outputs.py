from pathlib import Path

import pytest

from pipeline.outputs import MARKER, claim
from pipeline.settings import UserError


def test_a_program_only_replaces_its_own_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert claim(out, "draw", ["a.png", "b"]) == []
    (out / "a.png").touch()
    (out / "notes.txt").touch()
    assert claim(out, "draw", ["a.png", "b"]) == [out / "a.png"]
    assert claim(out, "count", ["c.json"]) == []
    with pytest.raises(UserError, match=r"a\.png was not made by `count`; choose another --out or remove it"):
        claim(out, "count", ["a.png"])
    with pytest.raises(UserError, match=r"notes\.txt was not made by `draw`"):
        claim(out, "draw", ["notes.txt"])
    assert claim(out, "draw", ["a.png"]) == [out / "a.png"]
    assert sorted(path.name for path in out.iterdir()) == [MARKER, "a.png", "notes.txt"]


def test_folders_are_searched_and_links_belong_to_others(tmp_path: Path) -> None:
    claim(tmp_path, "draw", ["b"])
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "1.png").touch()

    def is_output(path: Path) -> bool:
        return path.suffix == ".png"

    assert claim(tmp_path, "draw", ["b"], is_output) == [tmp_path / "b"]
    (tmp_path / "b" / "c" / "2.txt").touch()
    with pytest.raises(UserError, match=r"b/c/2\.txt was not made by `draw`; choose another --out or move it away"):
        claim(tmp_path, "draw", ["b"], is_output)
    (tmp_path / "b").rename(tmp_path / "far")
    (tmp_path / "b").symlink_to(tmp_path / "far")
    with pytest.raises(UserError, match="b was not made by `draw`"):
        claim(tmp_path, "draw", ["b"])


def test_a_file_in_place_of_the_folder_and_a_damaged_marker_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file; it must be a folder or not exist yet"):
        claim(tmp_path / "file", "draw", [])
    (tmp_path / MARKER).write_text("[")
    with pytest.raises(UserError, match=r"\.made-by\.json is not valid JSON .*Remove it and what this program wrote"):
        claim(tmp_path, "draw", [])
