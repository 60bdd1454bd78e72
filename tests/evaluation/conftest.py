"""Fixtures of several tests of benchmarks."""

import pytest

from tests.evaluation.trees import use_patch_filter


@pytest.fixture
def patch_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded patch filter replaces every backbone."""
    use_patch_filter(monkeypatch)
