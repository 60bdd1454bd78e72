"""Cards for the Hugging Face Hub that a program writes and replaces, but not once somebody has edited them."""

import hashlib
import re
from pathlib import Path

from pipeline.files import write_bytes
from pipeline.settings import UserError

README = "README.md"
_MARK = re.compile(r"<!-- written by [\w.]+: ([0-9a-f]{64}) -->")


def marked(text: str, program: str) -> str:
    """The text of a card with a last line by which `refuse_edited` recognizes it."""
    return f"{text}\n<!-- written by {program}: {hashlib.sha256(text.encode()).hexdigest()} -->\n"


def refuse_edited(path: Path) -> None:
    """Check that the file may be replaced: it is absent, empty, or a card as it was written.

    Raises:
        UserError: it is anything else.
    """
    if not path.exists():
        return
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        content = "another file"
    text, _, last = content.rstrip("\n").rpartition("\n")
    mark = _MARK.fullmatch(last)
    if content and (mark is None or mark[1] != hashlib.sha256(text.encode()).hexdigest()):
        what = "exists and is no card as this program writes it" if mark is None else "was edited"
        raise UserError(f"{path} {what}: move it away, or give another name")


def save_card(path: Path, text: str) -> None:
    """Write a card, atomically.

    Raises:
        UserError: it would replace a file that was edited or is another one.
    """
    refuse_edited(path)
    write_bytes(path, text.encode())
