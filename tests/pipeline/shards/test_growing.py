"""Inputs appended to a finished dataset and removed from it."""

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import INDEX, MANIFEST, REJECTS, REJECTS_SCHEMA, ShardDataset, read_manifest
from pipeline.neighbours import read_neighbours, write_neighbours
from pipeline.settings import UserError
from pipeline.shards.__main__ import main
from pipeline.shards.finished import names_of
from pipeline.shards.plan import readable, readable_bytes
from pipeline.spec import TripletSettings
from pipeline.storage import LocalStorage, open_storage
from pipeline.verify.__main__ import VerifyCommand
from pipeline.verify.__main__ import main as verify
from tests.media import write_clip, write_image, write_recording
from tests.pipeline.shards.jobs import contents, shards_command
from tests.pipeline.verify.damage import Copy, findings_in

SIZE = 3
NEVER = 10**6
VIDEO = "-abcdefghij"
FIRST = {f"n{number % 2 * 2}/i{number}.jpg": number for number in range(6)} | {f"n0/{VIDEO}_000001_000011.jpg": 6}
"""Inputs of the first job, in the classes n0 and n2."""
MORE = {"n1/i7.jpg": 7, "n2/i8.jpg": 8, "n1/i9.jpg": 9, "n0/i10.jpg": 10}


class Grown(NamedTuple):
    """Inputs, and datasets of them that tests copy."""

    data: Path
    first: Path
    """Dataset of FIRST and a reject."""
    grown: Path
    """The same, with MORE and a second input of the key i0."""


def add(data: Path, images: dict[str, int]) -> None:
    for name, seed in images.items():
        write_image(data / name, seed=seed)


def run(data: Path, out: Path | str, **options: Any) -> None:
    main(shards_command(data, out, samples_per_shard=SIZE, keys="stem", **options))


def listed(tmp_path: Path, *names: str) -> str:
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in names))
    return str(tmp_path / "names.txt")


def samples(out: Path) -> dict[str, tuple[str, int, str]]:
    """Shard, label and class of each sample, by key."""
    rows = pq.read_table(out / INDEX).to_pylist()
    return {row["key"]: (row["shard"], row["label"], row["class_name"]) for row in rows}


def rejects(out: Path) -> dict[str, str]:
    return {row["source"]: row["reason"] for row in pq.read_table(out / REJECTS).to_pylist()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    root = tmp_path_factory.mktemp("growing")
    made = Grown(root / "data", root / "first", root / "grown")
    add(made.data, FIRST)
    (made.data / "n0" / "bad.jpg").write_text("no picture")
    run(made.data, made.first)
    add(made.data, MORE)
    write_image(made.data / "n1" / "i0.jpg", seed=99)
    shutil.copytree(made.first, made.grown)
    run(made.data, made.grown, append=True)
    return made


@pytest.fixture
def out(made: Grown, tmp_path: Path) -> Path:
    """A copy of the grown dataset."""
    return Path(shutil.copytree(made.grown, tmp_path / "out"))


def test_appended_inputs_are_in_new_shards_and_nothing_else_changes(
    made: Grown, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = contents(made.first), contents(made.grown)
    assert {name for name in before if after[name] != before[name]} == {"dataset.json", INDEX, REJECTS}
    old, new = samples(made.first), samples(made.grown)
    assert {key: new[key] for key in old} == old, "labels stay, although n1 is between n0 and n2"
    assert {key: new[key][1:] for key in new.keys() - old} == {
        "i7": (2, "n1"),
        "i8": (1, "n2"),
        "i9": (2, "n1"),
        "i10": (0, "n0"),
    }
    assert {new[key][0] for key in new.keys() - old} == {"shard-000003.tar", "shard-000004.tar"}
    assert rejects(made.grown) == {"n0/bad.jpg": "not_media", "n1/i0.jpg": "duplicate_key"}
    manifest = read_manifest(made.grown)
    assert (manifest.classes, manifest.inputs, manifest.samples) == (["n0", "n2", "n1"], 13, 11)
    assert [(batch.first_shard, batch.shards, batch.inputs) for batch in manifest.appended] == [(3, 2, 5)]
    assert findings_in(made.grown, capsys) == []


def test_the_same_command_has_nothing_to_do_and_without_append_new_inputs_are_refused(
    made: Grown, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(out)
    for options in ({}, {"append": True}):
        run(made.data, out, **options)
    assert capsys.readouterr().out.count("already there") == 2
    assert contents(out) == before
    with pytest.raises(UserError, match=r"8 inputs \(recorded\), 13 other inputs .*; --append true adds"):
        run(made.data, made.first)
    data = shutil.copytree(made.data, tmp_path / "data")
    write_image(data / "n0" / "one_more.jpg", seed=50)
    with pytest.raises(UserError, match=r"13 inputs \(recorded\), 14 other inputs .*; --append true adds"):
        run(data, out)
    with pytest.raises(
        UserError, match=r"settings: settings\.images\.short_side = None \(recorded\), 32 \(now\)\. Choose"
    ):
        run(data, out, append=True, images={"short_side": 32})
    assert contents(out) == before


def test_inputs_of_another_folder_are_appended_and_those_that_are_gone_stay(
    made: Grown, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = samples(out)
    other = tmp_path / "other"
    add(other, {"n2/i20.jpg": 20, "n0/i0.jpg": 21})  # the second has the path of an input
    run(other, out, append=True)
    assert "12 inputs of " in (text := capsys.readouterr().out)
    assert "appending 1 new inputs of the 2" in text
    assert samples(out) == {**before, "i20": ("shard-000005.tar", 1, "n2")}
    before = samples(out)
    for data in (other, made.data):
        run(data, out)
        run(data, out, append=True)
    assert samples(out) == before
    assert findings_in(out, capsys) == []


def test_the_same_commands_give_the_same_bytes_in_an_object_store(made: Grown, tmp_path: Path) -> None:
    first = tmp_path / "data"
    add(first, FIRST)
    (first / "n0" / "bad.jpg").write_text("no picture")
    names = listed(tmp_path, "i3", "n0/bad.jpg")
    pruned = Path(shutil.copytree(made.grown, tmp_path / "pruned"))
    run(made.data, pruned, remove=names)
    for data, options in ((first, {}), (made.data, {"append": True}), (made.data, {"remove": names})):
        run(data, "memory://growing/out", **options)
    store = fsspec.filesystem("memory")
    assert {name.rpartition("/")[2] for name in store.find("/growing/out")} == {*contents(pruned), "job.json"}
    for name in contents(pruned):
        assert store.cat(f"/growing/out/{name}") == (pruned / name).read_bytes(), name


def test_a_sample_that_has_another_class_now_is_refused(made: Grown, tmp_path: Path) -> None:
    lines = [f"{name}\t{name[:2]}\n" for name in FIRST]
    paths = tmp_path / "list.txt"
    for name in FIRST:
        write_image(tmp_path / name, seed=0)
    paths.write_text("".join(lines))
    run(paths, tmp_path / "out")
    paths.write_text("".join([lines[0].replace("\tn0", "\tn9"), *lines[1:], "n1/new.jpg\tn1\n"]))
    with pytest.raises(UserError, match=r"n0/i0\.jpg is of 'n0' \(recorded\), 'n9' \(now\)"):
        run(paths, tmp_path / "out", append=True)


def test_classes_of_one_name_keep_their_labels(tmp_path: Path) -> None:
    data, other, out = tmp_path / "data", tmp_path / "other", tmp_path / "out"
    add(data, {"n2/a.jpg": 0, "n1/b.jpg": 1})
    for folder in (data, other):
        folder.mkdir(exist_ok=True)
        (folder / "labels.txt").write_text("n1,crane\nn2,crane\n")
    run(data, out)
    add(data, {"n2/c.jpg": 2})
    run(data, out, append=True)
    assert {key: label for key, (_, label, _) in samples(out).items()} == {"a": 1, "b": 0, "c": 1}
    add(other, {"n2/d.jpg": 3})
    with pytest.raises(UserError, match="'crane' is that of several labels of the dataset: keep one of its inputs"):
        run(other, out, append=True)


class Killed(BaseException):
    """The end of a job before one of its writes or removals."""


@contextlib.contextmanager
def killed_before(step: int) -> Iterator[None]:
    """End the job before it writes or removes a file of the dataset for the time with number `step`."""
    steps = itertools.count()

    def count() -> None:
        if next(steps) == step:
            raise Killed

    @contextlib.contextmanager
    def atomic_write(self: LocalStorage, name: str) -> Iterator[Path]:
        count()
        with original_write(self, name) as path:
            yield path

    def remove(self: LocalStorage, name: str) -> None:
        count()
        original_remove(self, name)

    original_write, original_remove = LocalStorage.atomic_write, LocalStorage.remove
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStorage, "atomic_write", atomic_write)
        patch.setattr(LocalStorage, "remove", remove)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def size(folder: Path) -> int:
    """Samples that a reader finds; 0 if the dataset is not finished."""
    return len(ShardDataset(folder)) if (folder / "dataset.json").exists() else 0


def check_kills(begin: Path, folder: Path, command: Callable[[Path], None], every: int) -> list[int]:
    """Kill a job before each step, or some, and run it again: the bytes are the same; returns the sizes after kills."""
    expected = Path(shutil.copytree(begin, folder / "undisturbed"))
    command(expected)
    sizes = []
    for step in itertools.count(step=every):
        out = Path(shutil.copytree(begin, folder / str(step)))
        is_killed = False
        try:
            with killed_before(step):
                command(out)
        except Killed:
            is_killed = True
            sizes.append(size(out))
        with killed_before(NEVER):
            command(out)
        assert contents(out) == contents(expected), step
        assert not (out / ".parts").exists(), step
        if not is_killed:
            break
    return sizes


def test_an_append_that_is_killed_at_any_step_is_continued(made: Grown, tmp_path: Path) -> None:
    sizes = check_kills(made.first, tmp_path, lambda out: run(made.data, out, append=True), every=1)
    assert [key for key, _ in itertools.groupby(sizes)] == [7, 0, 11], "the old dataset is readable, then the new one"
    assert sizes.count(0) == 4, "while index, rejects, job.json and dataset.json are written"


def test_a_removal_that_is_killed_at_any_step_is_continued(made: Grown, tmp_path: Path) -> None:
    emptied = [key for key, (shard, _, _) in samples(made.grown).items() if shard == "shard-000004.tar"]
    names = listed(tmp_path, "i3", "bad", *emptied)
    check_kills(made.grown, tmp_path, lambda out: run(tmp_path / "no_such_data", out, remove=names), every=3)
    assert not list((tmp_path / "undisturbed").glob("shard-000004.*"))


def test_a_removal_rewrites_only_the_shards_concerned_and_is_not_undone(
    made: Grown, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, stamps = samples(out), {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    gone = {"i3": before["i3"], f"{VIDEO}_000001_000011": before[f"{VIDEO}_000001_000011"]}
    names = listed(tmp_path, "i3", VIDEO, "n0/bad.jpg", "n5/nothing.jpg", "", "i3")
    run(tmp_path / "no_such_data", out, remove=names)
    assert "names that no input has: n5/nothing.jpg\n" in capsys.readouterr().out
    assert samples(out) == {key: value for key, value in before.items() if key not in gone}
    assert rejects(out) == {"n1/i0.jpg": "duplicate_key"}
    kept = {path.name for path in out.glob("*.tar") if path.stat().st_mtime_ns == stamps[path.name]}
    assert stamps.keys() - kept == {shard for shard, _, _ in gone.values()}
    old, new = ShardDataset(made.grown), ShardDataset(out)
    pictures = {str(key): old.frame(row, 0).tobytes() for row, key in enumerate(old.keys)}
    assert all(new.frame(row, 0).tobytes() == pictures[str(key)] for row, key in enumerate(new.keys))
    manifest = read_manifest(out)
    assert (manifest.removed, manifest.inputs) == ([VIDEO, "i3", "n0/bad.jpg"], 10)
    assert findings_in(out, capsys) == []
    after = contents(out)
    data = shutil.copytree(made.data, tmp_path / "data")
    for options in ({}, {"append": True}, {"retry_rejects": True}, {"remove": names}):
        run(data, out, **options)
        assert contents(out) == after
    add(data, {f"n1/{VIDEO}_000001_000011.jpg": 30, "n1/i31.jpg": 31})  # the first has a removed ID
    run(data, out, append=True)
    assert samples(out).keys() - before.keys() == {"i31"}
    assert not gone.keys() & samples(out).keys()
    assert findings_in(out, capsys) == []


def test_an_unfinished_removal_is_finished_by_any_command_and_an_unfinished_job_before_a_removal(
    made: Grown, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, expected = listed(tmp_path, "i3", "i7"), Path(shutil.copytree(out, tmp_path / "expected"))
    run(made.data, expected, remove=names)
    with pytest.raises(Killed), killed_before(12):
        run(made.data, out, remove=names)
    assert (out / ".parts" / "job.json").exists()
    run(made.data, out)
    assert contents(out) == contents(expected)
    unfinished = Path(shutil.copytree(made.first, tmp_path / "unfinished"))
    with pytest.raises(Killed), killed_before(9):
        run(made.data, unfinished, append=True)
    assert (unfinished / "shard-000003.tar").exists()
    assert verify(VerifyCommand(dataset=str(unfinished), workers=1)) == 0, "the old dataset is intact"
    assert "note: an unfinished job appends inputs to " in capsys.readouterr().out
    with pytest.raises(UserError, match="holds an unfinished job: finish it with the command that began it"):
        run(made.data, unfinished, remove=names)
    with pytest.raises(UserError, match=r"an unfinished job with other inputs: data = '.*Give those again"):
        run(made.first, unfinished)
    run(made.data, unfinished)
    assert contents(unfinished) == contents(made.grown)


def test_removals_name_inputs_not_parts_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for number, name in enumerate((f"{VIDEO}_000001_000011", "other")):
        write_clip(data / "riding" / f"{name}.mp4", 4.5, seed=number, size=(64, 48), fps=4)
    drawn = {"layout": "triplets", "triplets": TripletSettings(per_clip=2)}
    run(data, out, **drawn)
    run(data, out, remove=listed(tmp_path, VIDEO, "other-00"), **drawn)
    assert "no input has: other-00" in capsys.readouterr().out
    assert list(samples(out)) == ["other-00", "other-01"]
    assert findings_in(out, capsys) == []
    assert names_of("a/b_c_d.mp4", "b_c_d") == {"a/b_c_d.mp4", "b_c_d"}


def test_rejects_are_retried_and_shards_repaired_in_a_grown_dataset(
    made: Grown, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(out)
    for damaged in ("shard-000000.tar", "shard-000004.tar"):
        (out / damaged).unlink()
    run(made.data, out)
    assert contents(out) == before
    (out / "shard-000000.tar").unlink()
    (out / "shard-000004.tar").write_bytes(b"cut")
    new = tmp_path / "new"
    add(new, MORE)
    write_image(new / "n1" / "i0.jpg", seed=99)
    with pytest.raises(UserError, match=r"1 damaged shards of .*: n\d/.*\.jpg\. Give the DATA that has them"):
        run(new, out)
    assert (out / "shard-000004.tar").stat().st_size > 3, "what can be repaired is"
    run(made.data, out)
    assert contents(out) == before
    data = shutil.copytree(made.data, tmp_path / "data")
    write_image(data / "n0" / "bad.jpg", seed=40)
    write_image(data / "n1" / "bad.jpg", seed=41)  # comes later, but the first of both becomes the sample
    run(data, out, retry_rejects=True, append=True)
    assert rejects(out) == {"n1/bad.jpg": "duplicate_key", "n1/i0.jpg": "duplicate_key"}
    assert samples(out)["bad"][0] < "shard-000003"
    assert findings_in(out, capsys) == []


def test_rejects_of_one_key_in_two_batches_give_one_sample(
    made: Grown, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(made.data, tmp_path / "data")
    (data / "n2" / "bad.jpg").write_text("no picture either")
    run(data, out, append=True)
    assert rejects(out) == {"n0/bad.jpg": "not_media", "n2/bad.jpg": "not_media", "n1/i0.jpg": "duplicate_key"}
    before = samples(out)
    (data / "n0" / "bad.jpg").unlink()
    write_image(data / "n2" / "bad.jpg", seed=42)
    run(data, out, retry_rejects=True)
    assert samples(out).keys() - before.keys() == {"bad"}
    assert rejects(out) == {"n0/bad.jpg": "not_media", "n1/i0.jpg": "duplicate_key"}, "one that is gone stays as it was"
    write_image(data / "n0" / "bad.jpg", seed=43)
    run(data, out, retry_rejects=True)
    assert rejects(out) == {"n0/bad.jpg": "duplicate_key", "n1/i0.jpg": "duplicate_key"}
    assert findings_in(out, capsys) == []


def test_rejects_that_do_not_record_their_shards_follow_from_the_same_inputs(made: Grown, tmp_path: Path) -> None:
    data = tmp_path / "data"
    add(data, FIRST)
    (data / "n0" / "bad.jpg").write_text("no picture")
    old = Path(shutil.copytree(made.first, tmp_path / "old"))
    pq.write_table(pa.Table.from_pylist(pq.read_table(old / REJECTS).to_pylist(), REJECTS_SCHEMA), old / REJECTS)
    with pytest.raises(UserError, match=r"made by an earlier version.* run its job with --retry_rejects true"):
        run(made.data, old, append=True)
    run(data, old, retry_rejects=True)
    assert contents(old) == contents(made.first)


def test_neighbours_of_the_old_content_are_refused(made: Grown, out: Path, tmp_path: Path) -> None:
    old = ShardDataset(made.grown)
    rows, similarity = np.zeros((len(old), 1), np.int32), np.zeros((len(old), 1), np.float32)
    metadata = {"dataset_hash": old.manifest.dataset_hash}
    write_neighbours(open_storage(str(tmp_path)), old.keys, rows, similarity, metadata)
    assert len(read_neighbours(tmp_path, read_manifest(out))) == len(old)
    run(made.data, out, remove=listed(tmp_path, "i3"))
    for changed in (out, made.first):  # to the latter, inputs were appended
        with pytest.raises(UserError, match="was made from other shards than the ones given: run `make knn`"):
            read_neighbours(tmp_path, read_manifest(changed))


def test_verify_checks_each_batch_and_keys_across_batches(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = next(iter(samples(out)))
    copy = Copy(out)
    copy.edit_rows(4, lambda rows: rows[0].update(key=key))
    assert f"index.parquet: {key}: 2 samples have this key" in findings_in(out, capsys)
    copy.edit_manifest(lambda fields: fields.pop("appended"))
    assert any("is not in the order of the seed" in line for line in findings_in(out, capsys))


@pytest.mark.parametrize("path", ["a\\b", "a\\x41", os.fsdecode(b"\xff\\\xe9"), "ä/\U0001f600", "\\\\"])
def test_readable_paths_are_turned_back(path: str) -> None:
    assert readable_bytes(readable(path)) == path.encode("utf-8", "surrogateescape")


def test_there_must_be_something_to_remove_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no finished dataset to remove inputs from"):
        run(tmp_path, tmp_path / "out", remove=listed(tmp_path, "a"))
    with pytest.raises(ValueError, match="remove is a job of its own"):
        shards_command(tmp_path, tmp_path, remove="list.txt", append=True)


def test_the_manifest_of_other_datasets_is_as_before(made: Grown) -> None:
    assert not {"appended", "removed"} & json.loads((made.first / "dataset.json").read_text()).keys()


def test_spans_of_a_list_grow_and_are_removed_with_their_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list with times, a file that is appended, a shard that is repaired, a file that is removed with its rejects."""
    for name in ("a", "b", "c"):
        write_recording(tmp_path / "data" / f"{name}.mkv", 40)
    table, out = tmp_path / "data" / "spans.csv", tmp_path / "out"
    of_a = "a.mkv,run,0,4\na.mkv,walk,4.5,9\na.mkv,walk,20,30\na.mkv,run,0,4\n"
    of_b = "b.mkv,walk,1,6\nb.mkv,run,5,6\n"

    def give(rows: str, **options: Any) -> None:
        table.write_text(f"path,class,start,end\n{rows}")
        main(shards_command(table, out, samples_per_shard=2, **options))

    give(of_a + of_b)
    first = samples(out)
    assert {key: place[1:] for key, place in first.items()} == {
        "a%2Emkv_0_4000": (0, "run"),
        "a%2Emkv_4500_9000": (1, "walk"),
        "b%2Emkv_1000_6000": (1, "walk"),
    }
    rows = pq.read_table(out / REJECTS).to_pylist()
    assert sorted((row["source"], row["reason"], row["start_s"], row["end_s"]) for row in rows) == [
        ("a.mkv", "duplicate_key", 0, 4),
        ("a.mkv", "too_short", 20, 30),
        ("b.mkv", "too_short", 5, 6),
    ]
    assert verify(VerifyCommand(dataset=str(out), workers=1)) == 0

    bytes_of_first = contents(out)
    give(of_a + of_b + "a.mkv,run,2,7\nc.mkv,jump,0,5\n", append=True)
    assert "appending 1 new inputs of the 3" in capsys.readouterr().out  # spans of a known file are not new
    manifest = read_manifest(out)
    assert (manifest.inputs, manifest.samples, manifest.rejects) == (3, 4, 3)
    assert samples(out) == first | {"c%2Emkv_0_5000": ("shard-000001.tar", 2, "jump")}
    assert {name: contents(out)[name] for name in bytes_of_first if name.endswith(".tar")} == {
        name: digest for name, digest in bytes_of_first.items() if name.endswith(".tar")
    }
    assert verify(VerifyCommand(dataset=str(out), workers=1)) == 0

    intact = contents(out)
    (out / first["a%2Emkv_0_4000"][0]).unlink()
    give(of_a + of_b + "c.mkv,jump,0,5\n", append=True)
    assert contents(out) == intact
    of_intact = pq.read_table(out / REJECTS).to_pylist()
    for present in ("c.mkv,jump,0,5\n", of_a, of_b):  # files that are gone keep their samples and rejects
        give(present, append=True, retry_rejects=True)
        assert {**contents(out), REJECTS: "", MANIFEST: ""} == {**intact, REJECTS: "", MANIFEST: ""}
        assert sorted(map(str, pq.read_table(out / REJECTS).to_pylist())) == sorted(map(str, of_intact))

    main(shards_command(table, out, samples_per_shard=2, remove=listed(tmp_path, "a%2Emkv", "b%2Emkv_1000_6000")))
    text = capsys.readouterr().out
    assert "removing 1 inputs with 2 samples" in text
    assert "names that no input has: b%2Emkv_1000_6000" in text
    manifest = read_manifest(out)
    assert (manifest.inputs, manifest.removed) == (2, ["a%2Emkv"])
    assert set(samples(out)) == {"b%2Emkv_1000_6000", "c%2Emkv_0_5000"}
    assert rejects(out) == {"b.mkv": "too_short"}
    assert verify(VerifyCommand(dataset=str(out), workers=1)) == 0


def test_clips_are_cut_as_before_in_appended_files(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write_recording(data / "v" / "a.mkv", 40)
    main(shards_command(data, out, clips={"length": 5}))
    write_recording(data / "w" / "b.mkv", 40)
    with pytest.raises(UserError, match=r"settings\.clips\.length = 5\.0 \(recorded\), None \(now\)"):
        main(shards_command(data, out, append=True))
    main(shards_command(data, out, clips={"length": 5}, append=True))
    assert [place[0] for place in samples(out).values()] == ["shard-000000.tar"] * 2 + ["shard-000001.tar"] * 2
    assert read_manifest(out).inputs == 2
    assert verify(VerifyCommand(dataset=str(out), workers=1)) == 0
