import json
from pathlib import Path

import pytest

from indexing.resume import begin
from pipeline.settings import UserError
from pipeline.storage import open_storage


def test_a_job_begins_once_and_then_continues(tmp_path: Path) -> None:
    out = open_storage(str(tmp_path))
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0.npz").write_text("of a job that never wrote what it was")
    begin(out, "parts", {"k": 5, "ceiling": None})
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["job.json"]
    (tmp_path / "parts" / "0.npz").write_text("finished")
    (tmp_path / "parts" / ".tmp-1.npz-abc").write_text("half-written")
    begin(out, "parts", {"k": 5, "ceiling": None})
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["0.npz", "job.json"]


@pytest.mark.parametrize("other", [{"k": 6}, {"k": 5, "ceiling": 0.9}, {}])
def test_parts_of_another_job_are_kept_and_refused(other: dict[str, object], tmp_path: Path) -> None:
    out = open_storage(str(tmp_path))
    begin(out, "parts", {"k": 5})
    with pytest.raises(UserError, match=r"holds finished parts of another job.*hoose another --out or remove it"):
        begin(out, "parts", other)
    assert json.loads((tmp_path / "parts" / "job.json").read_text()) == {"k": 5}


def test_an_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write to .*file: "):
        begin(open_storage(str(tmp_path / "file")), "parts", {})
