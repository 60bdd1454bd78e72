"""Versions of packages, for the records that results leave."""

import contextlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Version of each of the distributions that is installed; this project may also run from its folder alone."""
    result = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            result[name] = version(name)
    return result
