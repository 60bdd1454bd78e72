"""One hash for many files, to identify data and weights."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipeline.files import sha256_file
from pipeline.settings import UserError


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Hex SHA-256 over the names (relative to `root`) and the bytes of some files, in any order.

    Raises:
        UserError: a file cannot be read.
    """
    try:
        lines = sorted(f"{file.relative_to(root).as_posix()} {sha256_file(file)}\n" for file in files)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()
