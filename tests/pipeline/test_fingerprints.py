from pathlib import Path

import pytest

from pipeline.fingerprints import fingerprint
from pipeline.settings import UserError


def test_fingerprint_depends_on_names_and_bytes_and_not_on_the_place(tmp_path: Path) -> None:
    def tree(root: str, **files: str) -> str:
        (tmp_path / root).mkdir()
        for name, text in files.items():
            (tmp_path / root / name).write_text(text)
        return fingerprint(tmp_path / root, (tmp_path / root).iterdir())

    same = tree("a", x="1", y="2")
    assert same == tree("b", y="2", x="1")
    assert len({same, tree("c", x="2", y="1"), tree("d", x="1", z="2")}) == 3
    with pytest.raises(UserError, match="gone"):
        fingerprint(tmp_path, [tmp_path / "gone"])
