"""Names of sequences, from lists and from the command line."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pipeline.settings import UserError


def chosen_sequences(names: Sequence[str], folder: Path) -> list[str]:
    """Names from the command line, each of which must be a folder in `folder`.

    Raises:
        UserError: one is not.
    """
    names = [plain_name(name) for name in names]
    for name in names:
        check_sequence_name(name)
        if not (folder / name).is_dir():
            raise UserError(f"--sequences {name}: there is no such folder in {folder}")
    return list(dict.fromkeys(names))


def plain_name(name: str) -> str:
    """A sequence name without what shells and `find` add to it, e.g. `./dog/`."""
    return PurePosixPath(name).as_posix() if name else name


def check_sequence_name(name: str) -> None:
    """Make sure that a name does not lead out of the data folder.

    Raises:
        UserError: it does.
    """
    if not name or Path(name).is_absolute() or any(part in (".", "..", "") for part in name.split("/")):
        raise UserError(f"{name!r} is not a sequence name; it must be the name of a folder, without `..`")


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, stripped, without empty ones and without a byte order mark.

    Raises:
        UserError: the file is missing or has another encoding.
    """
    try:
        text = path.read_text("utf-8-sig", errors="replace")
    except OSError as error:
        known = ", ".join(sorted(file.stem for file in path.parent.glob("[!.]*.txt"))) or "none"
        raise UserError(f"cannot read the list of sequences {path}; lists that exist there: {known}") from error
    if "\0" in text:
        raise UserError(f"the list of sequences {path} is not UTF-8 text (UTF-16?); save it as UTF-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_list(path: Path) -> list[str]:
    """The names in a list of sequences, one per line, without duplicates.

    Raises:
        UserError: the list is missing or empty.
    """
    names = [plain_name(line) for line in read_lines(path)]
    if not names:
        raise UserError(f"the list of sequences {path} is empty")
    return list(dict.fromkeys(names))
