import pytest

from pipeline.shards.plan import default_samples_per_shard, plan_shards
from pipeline.shards.sources import Media, Source


def sources(count: int) -> list[Source]:
    return [Source(f"c/{i}.mp4", str(i), "c", 0) for i in range(count)]


def test_every_input_once_in_shards_of_the_asked_size() -> None:
    plans, rejects = plan_shards(sources(23), "k400", samples_per_shard=5, seed=0)
    assert [plan.name for plan in plans] == [f"k400-{i:06d}" for i in range(5)]
    assert [len(plan.sources) for plan in plans] == [5, 5, 5, 5, 3]
    assert sorted(s.key for plan in plans for s in plan.sources) == sorted(s.key for s in sources(23))
    assert rejects == []


def test_order_depends_on_seed_and_paths_alone() -> None:
    def order(inputs: list[Source], seed: int) -> list[str]:
        return [s.key for plan in plan_shards(inputs, "x", 5, seed)[0] for s in plan.sources]

    assert order(sources(50), 1) == order(sources(50)[::-1], 1)
    assert order(sources(50), 1) != order(sources(50), 2)
    assert order(sources(50), 1) != [s.key for s in sources(50)]
    kept = set(order(sources(40), 1))
    assert [key for key in order(sources(50), 1) if key in kept] == order(sources(40), 1)


def test_second_input_with_a_key_is_rejected_by_name() -> None:
    inputs = [Source("b/same.mp4", "same", "b", 1), Source("a/same.avi", "same", "a", 0), *sources(3)]
    plans, rejects = plan_shards(inputs, "x", 10, 0)
    assert "a/same.avi" in [s.path for s in plans[0].sources]
    assert [(r.source, r.reason) for r in rejects] == [("b/same.mp4", "duplicate_key")]
    assert "a/same.avi" in rejects[0].detail


@pytest.mark.parametrize(
    ("media", "inputs", "expected"),
    [("clips", 3, 4), ("clips", 36, 4), ("clips", 1000, 63), ("clips", 240_000, 256), ("images", 96, 32)],
)
def test_small_sets_still_give_several_shards(media: Media, inputs: int, expected: int) -> None:
    assert default_samples_per_shard(media, inputs) == expected
