import pytest

from pipeline.differences import differences, flatten

RECORDED = {"seed": 0, "frames": {"fps": 2.0, "pattern": None}, "datasets": [{"hash": "a"}]}


def test_nested_settings_have_dotted_names() -> None:
    nested = {"a": 1, "b": {"c": [2, 3], "d": {}}, "e": [{"f": 4}, {"f": {"g": 5}}], "h": []}
    assert flatten(nested) == {"a": 1, "b.c": [2, 3], "e.0.f": 4, "e.1.f.g": 5, "h": []}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        (
            {"seed": 1, "datasets": []},
            "datasets = None (recorded), [] (now); datasets.0.hash = 'a' (recorded), None (now); "
            "seed = 0 (recorded), 1 (now)",
        ),
        ({"frames": {"fps": 3.0}}, "frames.fps = 2.0 (recorded), 3.0 (now)"),
        ({"new": None}, ""),
    ],
)
def test_each_setting_that_differs_is_named_with_both_values(changes: dict[str, object], expected: str) -> None:
    assert differences(RECORDED, RECORDED | changes) == expected


def test_ignored_keys_and_groups_may_differ() -> None:
    current = {"seed": 1, "frames": {"fps": 3.0}, "datasets": [{"hash": "b"}], "seed_2": 5}
    assert differences(RECORDED, current, {"seed", "frames", "datasets.0"}) == "seed_2 = None (recorded), 5 (now)"
