"""Numbers recorded from the authors' code, in `tests/reference/`."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "reference"


def read_json(name: str) -> Any:
    """Content of `tests/reference/NAME`."""
    return json.loads((FOLDER / name).read_text())
