"""Numbers recorded from the authors' code, in `tests/reference/`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "reference"


def read_json(name: str) -> Any:
    """Content of `tests/reference/NAME.json`."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def read_arrays(name: str) -> dict[str, NDArray[Any]]:
    """All arrays of `tests/reference/NAME.npz`."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)
