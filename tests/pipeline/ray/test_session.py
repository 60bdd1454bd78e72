import re

import pytest

from pipeline.ray.session import _why


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("The current node timed out\nduring startup.", "timed out during startup. Is the machine busy, or short of"),
        ("Failed to start GCS.  Last connection error: Traceback (most", "Failed to start GCS$"),
        ("Version mismatch: The cluster was started with:\n Ray: 2.59", "Version mismatch: .* with: Ray: 2.59$"),
    ],
)
def test_memory_is_asked_about_only_where_a_start_took_too_long(said: str, told: str) -> None:
    assert re.search(told, _why(RuntimeError(said)))
