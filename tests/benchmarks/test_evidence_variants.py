import math

import pytest

from benchmarks.evidence_variants import VARIANTS, compare, difference, orderings, paragraph, spread, variant
from pipeline.settings import parse_command
from training.pretrain import PretrainCommand

SCORES = {
    "random": (0.30, 0.31, 0.29),
    "no-auxiliary": (0.40, 0.42, 0.44),
    "past-only": (0.41, 0.43, 0.45),
    "no-squeeze": (0.36, 0.35, 0.37),
    "full": (0.50, 0.51, 0.52),
}
TABLE = {name: [{"J&F-Mean": score, "mIoU": score / 2} for score in scores] for name, scores in SCORES.items()}


def test_spread_is_mean_and_sample_deviation() -> None:
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0, 3)
    assert spread([5.0]) == (5.0, 0.0, 1)


def test_error_of_a_difference_is_that_of_welch() -> None:
    result = difference([1.0, 2.0, 3.0], [4.0, 6.0])
    assert result.mean == -3.0
    assert result.error == pytest.approx(math.sqrt(1 / 3 + 2 / 2))


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        ([2.0, 2.2], [1.0, 1.2], "shows"),
        ([1.0, 1.2], [2.0, 2.2], "is reversed"),
        ([1.0, 1.4], [0.8, 1.2], "does not show"),
        ([2.0], [1.0], "does not show"),
        ([1.0, 1.0], [1.0, 1.0], "does not show"),
    ],
)
def test_an_ordering_shows_beyond_twice_its_error(better: list[float], worse: list[float], verdict: str) -> None:
    assert difference(better, worse).verdict == verdict


def test_paragraph_follows_from_the_numbers() -> None:
    message = paragraph(TABLE)
    assert "by +21.0 ± 0.8 in J&F (DAVIS), +10.5 ± 0.4 in part mIoU (VIP): a clear gain in 2 of 2 measures" in message
    shows, does_not, reversed_ = (message.index(phrase) for phrase in ("these show", "do not show", "are reversed"))
    assert shows < message.index("full over no auxiliary branch (+9.0") < does_not
    assert does_not < message.index("past only over no auxiliary branch (+1.0 ± 1.6)") < reversed_
    assert message.index("both, without squeeze over no auxiliary branch (-6.0") > reversed_


def test_orderings_leave_out_variants_that_were_not_run() -> None:
    few = {name: TABLE[name] for name in ("random", "no-auxiliary", "full")}
    assert [(better, worse) for better, worse, _ in orderings(few)] == [("full", "no-auxiliary")]
    assert str(compare(few, "full", "no-auxiliary", "vip")) == "+4.5 ± 0.6"


def test_variants_change_what_their_names_say() -> None:
    def preset(name: str) -> PretrainCommand:
        common = ["--config", "configs/tiny.yaml", "--data.shards", "shards", "--out", "run"]
        return parse_command(PretrainCommand, [*common, *variant(name).options])

    assert [variant.name for variant in VARIANTS if not variant.trained] == ["random"]
    full = preset("full")
    assert full.data.sandwich.auxiliary == ("past", "future")
    assert full.model.auxiliary_branch
    assert full.model.loss.squeeze > 0
    assert preset("past-only").data.sandwich.auxiliary == ("past",)
    assert preset("no-squeeze").model.loss.squeeze == 0
    assert preset("no-squeeze").data.sandwich == full.data.sandwich
    assert preset("no-auxiliary").data.sandwich.auxiliary == ()
    assert not preset("no-auxiliary").model.auxiliary_branch
