import resource
from collections.abc import Callable, Iterator

import pytest

from pipeline.limits import limits_in_force, ray_store_bytes, smaller_limit, too_small_for_ray

KINDS = (resource.RLIMIT_AS, resource.RLIMIT_FSIZE)
Limit = Callable[[int, int], None]


@pytest.fixture
def limit() -> Iterator[Limit]:
    """Sets a limit of this process in bytes until the test ends."""
    before = {kind: resource.getrlimit(kind) for kind in KINDS}
    yield lambda kind, value: resource.setrlimit(kind, (value, before[kind][1]))
    for kind, both in before.items():
        resource.setrlimit(kind, both)


def test_the_smaller_limit_is_taken() -> None:
    none = resource.RLIM_INFINITY
    assert smaller_limit(5, 7) == smaller_limit(7, 5) == smaller_limit(none, 5) == smaller_limit(5, none) == 5
    assert smaller_limit(none, none) == none


def test_without_limits_ray_decides(limit: Limit) -> None:
    for kind in KINDS:
        limit(kind, resource.getrlimit(kind)[1])
    assert (too_small_for_ray(), ray_store_bytes(), limits_in_force()) == ("", None, "")


def test_the_store_fits_into_the_limits(limit: Limit) -> None:
    limit(resource.RLIMIT_AS, 16 << 30)
    assert ray_store_bytes() == 512 << 20
    limit(resource.RLIMIT_FSIZE, 200 << 20)
    assert ray_store_bytes() == 150 << 20
    limit(resource.RLIMIT_AS, 1 << 40)
    limit(resource.RLIMIT_FSIZE, 1 << 40)
    assert ray_store_bytes() == 1 << 30
    assert too_small_for_ray() == ""
    assert limits_in_force() == "`ulimit -v 1073741824` and `ulimit -f 1073741824`"


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (resource.RLIMIT_AS, 3 << 30, "`ulimit -v 3145728` is too small for it: set ulimit -v to 4194304 or more"),
        (resource.RLIMIT_FSIZE, 1 << 20, "`ulimit -f 1024` is too small for it: set ulimit -f to 131072 or more"),
    ],
)
def test_limits_too_small_for_ray_are_named(limit: Limit, kind: int, value: int, expected: str) -> None:
    limit(kind, value)
    assert too_small_for_ray() == f"Ray cannot start here: {expected}"
