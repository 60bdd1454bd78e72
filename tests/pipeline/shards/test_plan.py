import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.settings import UserError
from pipeline.shards.media import Media
from pipeline.shards.plan import Plan, Planned, default_samples_per_shard, make_plan, read_shard_plan, readable
from pipeline.shards.sources import Listing, Source
from pipeline.storage import open_storage


def sources(count: int) -> list[Source]:
    return [Source(f"c/{i}.mp4", str(i), "c", "clips") for i in range(count)]


def planned(
    inputs: list[Source], folder: Path, seed: int = 0, size: int | None = 5
) -> tuple[Plan, list[list[Planned]]]:
    storage = open_storage(str(folder))
    plan = make_plan(Listing("DATA", iter(inputs)), seed, size, folder / "plan.parquet")
    return plan, [list(read_shard_plan(storage, "plan.parquet", shard)) for shard in range(plan.shards)]


def order(inputs: list[Source], folder: Path, seed: int) -> list[str]:
    return [source.key for shard in planned(inputs, folder, seed)[1] for source in shard]


def test_every_input_once_in_shards_of_the_asked_size(tmp_path: Path) -> None:
    plan, shards = planned(sources(23), tmp_path)
    assert [len(shard) for shard in shards] == [5, 5, 5, 5, 3]
    assert sorted(s.path for shard in shards for s in shard) == sorted(s.path for s in sources(23))
    assert (plan.inputs, plan.media, plan.classes) == (23, "clips", ["c"])


def test_order_depends_on_seed_and_keys_alone(tmp_path: Path) -> None:
    shuffled = sources(50)
    random.Random(0).shuffle(shuffled)
    assert order(sources(50), tmp_path, 1) == order(shuffled, tmp_path, 1)
    assert order(sources(50), tmp_path, 1) != order(sources(50), tmp_path, 2)
    assert order(sources(50), tmp_path, 1) != [s.key for s in sources(50)]
    kept = set(order(sources(40), tmp_path, 1))
    assert [key for key in order(sources(50), tmp_path, 1) if key in kept] == order(sources(40), tmp_path, 1)
    assert planned(sources(50), tmp_path, 1)[0] == planned(shuffled, tmp_path, 1)[0]


def test_fingerprint_tells_inputs_apart_and_not_their_order(tmp_path: Path) -> None:
    def fingerprint(inputs: list[Source], seed: int = 0) -> str:
        return planned(inputs, tmp_path, seed)[0].fingerprint

    assert fingerprint(sources(9)) == fingerprint(sources(9)[::-1]) == fingerprint(sources(9), seed=1)
    moved = [*sources(8), Source("d/8.mp4", "8", "c", "clips")]
    relabeled = [*sources(8), Source("c/8.mp4", "8", "d", "clips")]
    assert len({fingerprint(s) for s in (sources(9), sources(8), moved, relabeled)}) == 4


def test_labels_are_the_rank_of_the_folder_and_names_replace_folders(tmp_path: Path) -> None:
    inputs = [Source(f"{c}/{i}.jpg", f"{c}{i}", c, "images") for c in ("n2", "n1", "") for i in range(3)]
    listing = Listing("DATA", iter(inputs), names={"n2": "crane", "n1": "crane"})
    plan = make_plan(listing, 0, 100, tmp_path / "plan.parquet")
    assert plan.classes == ["crane", "crane"]
    read = {s.path: (s.class_name, s.label) for s in read_shard_plan(open_storage(str(tmp_path)), "plan.parquet", 0)}
    assert read["n1/0.jpg"] == ("crane", 0)
    assert read["n2/0.jpg"] == ("crane", 1)
    assert read["/0.jpg"] == ("", -1)


def test_inputs_with_one_key_follow_each_other_in_path_order(tmp_path: Path) -> None:
    same = [Source(f"{c}/same.mp4", "same", c, "clips") for c in "zbxa"]
    _, shards = planned([*sources(30), *same], tmp_path, size=3)
    together = [source.path for shard in shards for source in shard if source.key == "same"]
    assert together == ["a/same.mp4", "b/same.mp4", "x/same.mp4", "z/same.mp4"]
    assert [len({source.key for source in shard}) for shard in shards] == [3] * 10 + [1]
    assert any({s.path for s in same} <= {source.path for source in shard} for shard in shards)


def test_odd_names_and_spans_survive(tmp_path: Path) -> None:
    names = ["-a b", "x\ny", "..", os.fsdecode(b"\xff\xfe"), "ä", "a'b\"c"]
    inputs = [Source(f"{name}/{name}", f"k{i}", name, "clips", (i, 10)) for i, name in enumerate(names)]
    plan, shards = planned(inputs, tmp_path, size=100)
    assert {(s.path, s.span) for s in shards[0]} == {(f"{name}/{name}", (i, 10)) for i, name in enumerate(names)}
    assert sorted(plan.classes) == sorted(readable(name) for name in names)
    assert readable(os.fsdecode(b"a\xff")) == "a\\xff"
    assert readable("a\\xff") != readable(os.fsdecode(b"a\xff")), "different names stay different"


def test_nothing_and_both_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DATA holds no input of the requested kind; it holds nothing"):
        planned([], tmp_path)
    with pytest.raises(UserError, match="DATA holds both clips and images: choose with --media"):
        planned([*sources(2), Source("c/x.jpg", "x", "c", "images")], tmp_path)


MEASURE = """
import resource, sys
from pathlib import Path
from pipeline.shards import plan
from pipeline.shards.sources import Listing, Source
plan._CACHE_KB = 1000
name = "a class name of usual length/{:011d}_000001_000011.mp4"
for inputs in (10_000, 50_000):
    sources = (Source(name.format(i), f"{i:011d}_000001_000011", "class", "clips") for i in range(inputs))
    plan.make_plan(Listing("DATA", sources), 0, 4096, Path(sys.argv[1]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_inputs(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", MEASURE, str(tmp_path / "plan")]
    few_kb, many_kb = map(int, subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split())
    assert many_kb - few_kb < 6_000  # a list of the inputs alone has more


@pytest.mark.parametrize(
    ("media", "inputs", "expected"),
    [("clips", 3, 4), ("clips", 36, 4), ("clips", 1000, 32), ("clips", 240_000, 256), ("images", 96, 32)],
)
def test_small_sets_still_give_several_shards(media: Media, inputs: int, expected: int) -> None:
    assert default_samples_per_shard(media, inputs) == expected


PLAN_ALL = """
import sys
from pathlib import Path
from pipeline.shards.plan import make_plan, read_shard_plan
from pipeline.shards.sources import list_sources, open_data
from pipeline.storage import open_storage
for uri in sys.argv[1:]:
    data = open_data(uri)
    plan = make_plan(list_sources(data), 0, 9, Path("plan.parquet"))
    print(plan.fingerprint, ascii(plan.classes))
    for source in read_shard_plan(open_storage("."), "plan.parquet", 0):
        print(data.root.read(data.tar or source.path, source.span), ascii(source))
"""


def test_no_locale_changes_a_plan(tmp_path: Path) -> None:
    names = ["кошка/ä.jpg".encode(), b"latin-\xe4/b\xff.jpg"]
    for name in names:
        path = tmp_path / "data" / os.fsdecode(name)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    (tmp_path / "list.txt").write_bytes(b"".join(b"data/%b\n" % name for name in names))
    for form in ("gnu", "pax"):
        subprocess.run(["tar", f"--format={form}", "-cf", f"{form}.tar", "-C", "data", "."], cwd=tmp_path, check=True)
    message = [
        subprocess.run(
            [sys.executable, "-c", PLAN_ALL, "data", "list.txt", "gnu.tar", "pax.tar"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONCOERCECLOCALE": "0", **locale},
            check=True,
            capture_output=True,
        ).stdout
        for locale in ({"PYTHONUTF8": "1"}, {"PYTHONUTF8": "0", "LC_ALL": "C"})
    ]
    assert message[0] == message[1]
    assert message[0].count(b"b'x' Planned") == 8


def test_spans_of_a_file_are_one_input(tmp_path: Path) -> None:
    spans: dict[str, list[tuple[int, int | None]]] = {"a": [(5000, None), (0, 2000), (5000, 7000)], "b": [(1000, 3000)]}
    cut = [
        Source(f"v/{file}.mp4", file, f"class {start}", "clips", cut=(start, end))
        for file, of_file in spans.items()
        for start, end in of_file
    ]
    plan, (shard,) = planned([*cut, Source("v/c.mp4", "c", "class 0", "clips")], tmp_path)
    assert (plan.inputs, plan.spans, plan.classes) == (3, 4, ["class 0", "class 1000", "class 5000"])
    assert {source.key: [(c.start_ms, c.end_ms, c.label) for c in source.cuts] for source in shard} == {
        "a": [(0, 2000, 0), (5000, 7000, 2), (5000, None, 2)],
        "b": [(1000, 3000, 1)],
        "c": [],
    }
    fingerprints = {planned(inputs, tmp_path)[0].fingerprint for inputs in (cut, cut[::-1], cut[1:], sources(2))}
    assert len(fingerprints) == 3


def test_a_span_that_has_the_key_of_a_file_is_refused(tmp_path: Path) -> None:
    inputs = [Source("v/a.mp4", "a", "", "clips", cut=(0, 500)), Source("v/a_0_500.mp4", "a_0_500", "", "clips")]
    with pytest.raises(UserError, match=r"^DATA: a span of v/a\.mp4 would have the same key as v/a_0_500\.mp4: rename"):
        planned(inputs, tmp_path)
