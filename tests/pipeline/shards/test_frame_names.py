import random
import re

import pytest

from pipeline.shards.frame_names import in_order
from pipeline.shards.rejects import Rejected
from pipeline.spec import Reason


def numbers(form: str, count: int = 12) -> list[str]:
    return [form.format(i, i=i) for i in range(count)]


@pytest.mark.parametrize(
    "names",
    [
        numbers("{}.jpg"),
        numbers("frame{:05d}.png"),
        [f"frame_{i:05d}.{'jpeg' if i % 2 else 'jpg'}" for i in range(12)],
        [f"frame_{i:03d}_{i * 0.5:g}.jpg" for i in range(12)],
        [f"t{i * 0.25:g}.jpg" for i in range(12)],  # 0.5 before 0.75 before 1
        [f"t{i * 0.25}.jpg" for i in range(12)],
        [f"t{i * 0.05:.2f}.jpg" for i in range(12)],
        [f"{1699999995 + i * 0.5:.1f}.jpg" for i in range(12)],
        numbers("clip.1.{}.jpg", 30),  # 1.9 before 1.10: two counters
        [f"movie.mp4.{i}.jpg" for i in range(1, 60, 5)],  # .6 before .11
        [f"scene{i // 7}_{i % 7}.jpg" for i in range(21)],
        [f"2026-11-26 10.{i // 60:02d}.{i % 60:02d}.jpg" for i in range(50, 70)],
        ["only.jpg"],
    ],
    ids=lambda names: names[1 % len(names)],
)
def test_frames_are_in_the_order_of_their_numbers(names: list[str]) -> None:
    shuffled = random.Random(0).sample(names, len(names))
    assert in_order(shuffled) == names


FLOW = [name for form in ("img_{:05d}.jpg", "flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg") for name in numbers(form)]


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (FLOW, r"12 of 'flow_x_\d+\.jpg', 12 of 'flow_y_\d+\.jpg', 12 of 'img_\d+\.jpg'"),
        ([*numbers("{}.jpg"), *numbers("{}.png")], r"12 of '\d+\.jpg', 12 of '\d+\.png'"),
        ([*numbers("{}.jpg"), *numbers("{}_mask.png")], r"12 of '\d+\.jpg', 12 of '\d+_mask\.png'"),
        (
            [*numbers("{}.5.jpg"), *numbers("a{}.jpg"), "b.jpeg", "a12.jpeg"],
            r"13 of 'a\d+\.(jpeg|jpg)', 12 of '[\d.]+\.jpg'",
        ),
        ([f"{letter}.jpg" for letter in "abcdefgh"], "1 of 'f\\.jpg' and 2 more kinds"),
    ],
)
def test_names_of_several_kinds_are_refused_with_a_pattern_for_each(names: list[str], kinds: str) -> None:
    with pytest.raises(Rejected) as error:
        in_order(names)
    assert error.value.reason == Reason.MIXED_NAMES
    assert kinds in error.value.detail
    assert error.value.detail.endswith("; choose with --frames.pattern")
    for count, pattern in re.findall(r"(\d+) of '(.*?)'", error.value.detail):
        chosen = [name for name in names if re.fullmatch(pattern, name)]
        assert len(in_order(chosen)) == int(count)


@pytest.mark.parametrize("names", [["1.jpg", "01.jpg"], ["1.jpg", "2.jpg", "2.JPG"]])
def test_two_names_with_one_number_are_refused_even_if_chosen(names: list[str]) -> None:
    for chosen in (False, True):
        with pytest.raises(Rejected, match=Reason.MIXED_NAMES.value):
            in_order(names, chosen)


def test_chosen_names_may_be_of_several_kinds() -> None:
    assert in_order(["b2.jpg", "a10.jpg", "a9.jpg", "b.jpg"], chosen=True) == ["a9.jpg", "a10.jpg", "b.jpg", "b2.jpg"]
