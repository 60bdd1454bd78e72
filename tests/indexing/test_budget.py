import subprocess
import sys
from pathlib import Path

import pytest

from indexing.budget import rows_in_memory
from pipeline.settings import UserError

ROOT = Path(__file__).parents[2]


def test_all_rows_are_held_if_they_fit() -> None:
    assert rows_in_memory(4.0, rows=1_281_167, width=384, queries=8192, k=5) == 1_281_167
    assert rows_in_memory(0.5, rows=100, width=384, queries=8192, k=5) == 100


def test_rows_and_queries_stay_within_the_budget() -> None:
    for width, queries in ((384, 8192), (768, 4096), (1024, 100)):
        rows = rows_in_memory(1.0, 10**9, width, queries, k=5)
        assert 0.4e9 < 4 * width * rows < 1e9 - 4 * width * queries


def test_too_little_is_one_sentence_that_says_what_is_enough() -> None:
    with pytest.raises(UserError, match=r"search\.memory_gb = 0\.3 is too little .* at least (0\.\d+)") as caught:
        rows_in_memory(0.3, 10**6, 384, 8192, 5)
    enough = float(str(caught.value).split("at least ")[1].split(",")[0])
    assert rows_in_memory(enough + 0.01, 10**6, 384, 8192, 5) >= 1024


def test_peak_memory_grows_with_what_is_held() -> None:
    program = (
        "import numpy as np; from indexing.budget import peak_memory_gb; before = peak_memory_gb(); "
        "held = np.ones(50_000_000); print(peak_memory_gb() - before)"
    )
    # a process of its own: all tests together hold so much at times that what one adds is not seen
    grown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert float(grown) == pytest.approx(0.4, rel=0.1)
