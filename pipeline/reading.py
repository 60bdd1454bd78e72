"""Read files from other programs: all exceptions of libraries become one sentence with the file's name."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.settings import UserError


def reason(error: BaseException) -> str:
    """The message of an exception on one line, shortened; its type if it has no message."""
    words = " ".join(str(error).split()).rstrip(".")
    return (words[:200] + " ..." if len(words) > 200 else words) or type(error).__name__


@contextlib.contextmanager
def reading(name: object, kind: str, hint: str = "") -> Iterator[None]:
    """Context in which a library reads the file `name`, which should be a `kind`: "a Parquet file", "valid JSON".

    All exceptions are caught, as every decoder has its own.

    Raises:
        UserError: for any exception; ends with `hint`, a sentence about what to do.
    """
    advice = f". {hint}" if hint else ""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"cannot read {name}: {error.strerror}{advice}") from error
        raise UserError(f"{name} is not {kind} ({reason(error)}){advice}") from error


def read_json(path: Path, hint: str = "") -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: the file cannot be read or is not a JSON object.
    """
    with reading(path, "valid JSON", hint):
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__} where an object is expected")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file, one per line, up to the first invalid line, which a killed run may leave.

    Raises:
        UserError: the file cannot be read.
    """
    with reading(path, "a text file"):
        text = path.read_text("utf-8", errors="replace")
    lines: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(content, dict):
            break
        lines.append(content)
    return lines
