import numpy as np

from pipeline.versions import installed_versions


def test_missing_packages_are_left_out() -> None:
    assert installed_versions(("numpy", "no-such-package")) == {"numpy": np.__version__}
