"""A worker for actors."""

from pathlib import Path

from pipeline.settings import UserError


class Halver:
    """Writes half of each item; fails with `fault` if given."""

    def __init__(self, out: Path, fault: Exception | None) -> None:
        if isinstance(fault, UserError):
            raise fault
        self._out, self._fault = out, fault

    def run(self, item: int) -> int:
        if self._fault is not None:
            raise self._fault
        (self._out / str(item)).write_text(str(item // 2))
        return item // 2
