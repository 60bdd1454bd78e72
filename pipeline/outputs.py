"""Output folders in which a program only replaces files that it wrote itself."""

from collections.abc import Callable, Collection
from pathlib import Path

from pipeline.files import as_json, write_bytes
from pipeline.reading import read_json
from pipeline.settings import UserError

MARKER = ".made-by.json"
"""JSON file in an output folder: maps names of files and folders to the programs that write them."""


def claim(
    out: Path, program: str, names: Collection[str], is_output: Callable[[Path], bool] = lambda path: True
) -> list[Path]:
    """Record in `out` that `program` writes the files and folders `names`; returns those of them that exist.

    `is_output` decides for a path relative to `out` in one of these folders whether the program writes such files.

    Raises:
        UserError: `out` is a file; one of `names` exists but is from another program, or is a link; or one of the
            folders holds a file that the program does not write.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; it must be a folder or not exist yet")
    marker = out / MARKER
    makers = read_json(marker, "Remove it and what this program wrote beside it") if marker.is_file() else {}
    result = [out / name for name in names if (out / name).exists() or (out / name).is_symlink()]
    for path in result:
        if makers.get(path.name) != program or path.is_symlink():
            raise UserError(f"{path} was not made by `{program}`; choose another --out or remove it")
        for inner in sorted(path.rglob("*")):
            if inner.is_symlink() or (inner.is_file() and not is_output(inner.relative_to(out))):
                raise UserError(f"{inner} was not made by `{program}`; choose another --out or move it away")
    write_bytes(marker, as_json({**makers, **dict.fromkeys(names, program)}))
    return result
