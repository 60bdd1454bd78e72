import numpy as np

from pipeline.versions import installed_versions


def test_what_is_not_installed_is_left_out() -> None:
    assert installed_versions(("numpy", "no-such-package")) == {"numpy": np.__version__}
