"""What is wrong with a dataset: one line each."""

from collections.abc import Callable
from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that is wrong."""

    file: str
    """The file to mend, below the dataset."""
    place: str
    """Where in it: a sample key, a field; or empty."""
    what: str
    extraneous: bool = False
    """Whether the file must go, not be mended."""

    def __str__(self) -> str:
        line = ": ".join(part for part in (self.file, self.place, self.what) if part)
        return f"{line}; remove it" if self.extraneous else line


Report = Callable[[Finding], None]
"""Takes each finding as it is made."""
