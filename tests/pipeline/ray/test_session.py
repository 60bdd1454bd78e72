import re

import pytest

from pipeline.ray.session import _why


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("The current node timed out\nduring startup.", "timed out during startup. Is the machine busy, or short of"),
        ("Failed to start GCS.  Last connection error: Traceback (most", "Failed to start GCS$"),
        ("Version mismatch: The cluster was started with:\n Ray: 2.59", "Version mismatch: .* with: Ray: 2.59$"),
    ],
)
def test_only_a_timeout_asks_about_a_busy_machine_and_memory(error: str, expected: str) -> None:
    assert re.search(expected, _why(RuntimeError(error)))
