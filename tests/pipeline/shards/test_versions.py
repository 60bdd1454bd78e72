import pytest

from pipeline.settings import UserError
from pipeline.shards.versions import check_versions, writer_versions


def test_a_machine_with_other_programs_is_refused_by_name() -> None:
    here = writer_versions()
    check_versions(here)
    assert set(here) == {"ffmpeg", "pillow"}
    with pytest.raises(UserError, match=rf"has ffmpeg {here['ffmpeg']} instead of 4\.0: its shards would not have"):
        check_versions({**here, "ffmpeg": "4.0"})
