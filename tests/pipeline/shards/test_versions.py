import pytest

from pipeline.settings import UserError
from pipeline.shards.versions import check_versions, writer_versions


def test_a_machine_with_other_programs_is_refused_by_name() -> None:
    current = writer_versions()
    check_versions(current)
    assert set(current) == {"ffmpeg", "pillow"}
    with pytest.raises(UserError, match=rf"has ffmpeg {current['ffmpeg']} instead of 4\.0: its shards would not have"):
        check_versions({**current, "ffmpeg": "4.0"})
