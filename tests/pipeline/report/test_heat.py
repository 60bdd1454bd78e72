import numpy as np

from pipeline.report.heat import heat


def test_heat_is_bright_where_the_map_is_high() -> None:
    frame = np.full((40, 60, 3), 100, np.uint8)
    lit = heat(frame, np.array([[0.0, 1.0]]))
    assert lit[20, 55].sum() > lit[20, 5].sum()
    assert np.isfinite(heat(frame, np.zeros((2, 3)))).all()
