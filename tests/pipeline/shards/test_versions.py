import pytest

from pipeline.settings import UserError
from pipeline.shards.versions import check_versions, writer_versions


def test_other_versions_are_refused_by_name() -> None:
    current = writer_versions()
    check_versions(current)
    assert set(current) == {"ffmpeg", "pillow"}
    with pytest.raises(UserError, match=rf"has ffmpeg {current['ffmpeg']} instead of 4\.0: its shards would have"):
        check_versions({**current, "ffmpeg": "4.0"})
