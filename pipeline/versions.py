"""Versions of installed packages, to be recorded with results."""

import contextlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that are installed; this project may also run uninstalled."""
    result = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            result[name] = version(name)
    return result
