"""Arrays recorded with the authors' code, and where other data may lie."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_DAVIS = REPOSITORY.parent / "shared" / "data" / "davis"


def reference(name: str) -> dict[str, NDArray[Any]]:
    with np.load(REPOSITORY / "tests" / "reference" / f"{name}.npz") as arrays:
        return dict(arrays)
