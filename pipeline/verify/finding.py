"""Faults of a dataset."""

from collections.abc import Callable
from typing import NamedTuple


class Finding(NamedTuple):
    """One fault."""

    file: str
    """File to repair, relative to the dataset."""
    location: str
    """Sample key or field in it, or empty."""
    fault: str
    extraneous: bool = False
    """Whether the file must be removed, not repaired."""

    def __str__(self) -> str:
        line = ": ".join(part for part in (self.file, self.location, self.fault) if part)
        return f"{line}; remove it" if self.extraneous else line


Report = Callable[[Finding], None]
"""Called with each finding."""
