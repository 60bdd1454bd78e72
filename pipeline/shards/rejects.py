"""The error for an input that cannot be used."""

from pipeline.spec import Reason


class Rejected(Exception):  # noqa: N818 - a property of the input, not a fault of the program
    """An input cannot be used; becomes a row of `rejects.parquet`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
