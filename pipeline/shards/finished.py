"""What a job changes in a finished dataset: inputs that it appends, and shards that it repairs or retries."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.dataset import INDEX, INDEX_SCHEMA, REJECTS, REJECTS_SCHEMA, Batch, Manifest, with_columns
from pipeline.paths import path_bytes, path_text
from pipeline.record import shuffle_rank
from pipeline.settings import UserError
from pipeline.shards.keys import sample_key
from pipeline.shards.media import media_of
from pipeline.shards.parts import PREVIOUS, Part, write_part
from pipeline.shards.plan import (
    Classes,
    ListedInputs,
    Plan,
    default_samples_per_shard,
    plan_writer,
    readable,
    readable_bytes,
)
from pipeline.shards.publish import Base, shard_number, shards_of_index, shards_of_rejects
from pipeline.shards.sources import Source
from pipeline.spec import Keys, Reason
from pipeline.storage import Storage

_KINETICS_KEY = re.compile(r"(.{11})_\d{6}_\d{6}")
"""YouTube ID, start and end."""
_TRIPLET_KEY = re.compile(r"(.+)-\d\d")


class Change(NamedTuple):
    """A job that changes a finished dataset."""

    base: Base
    plan: Plan
    header: dict[str, Any]
    """Fields of the new manifest that do not depend on the shards."""
    rewritten: list[int]
    """Numbers of the shards of the dataset that are written again."""
    damaged: list[int]
    """Those of them whose samples cannot be copied."""


class ShardTables(NamedTuple):
    """Rows of one shard in the tables of a finished dataset."""

    number: int
    rows: pa.Table
    rejects: pa.Table


def open_base(out: Storage, manifest: Manifest, listed: ListedInputs | None = None) -> Base:
    """The finished dataset in `out`; if it does not record the shards of its rejects, they follow from its inputs.

    Raises:
        UserError: they are not recorded, and other inputs, or none, are listed now.
    """
    with out.parquet(REJECTS) as file:
        numbers = shards_of_rejects(file)
        if numbers is None and manifest.rejects:
            if listed is None or listed.fingerprint() != manifest.source_fingerprint:
                raise UserError(
                    f"{out} was made by an earlier version, which did not record the shards of its rejects: first run "
                    "its job with --retry_rejects true on the inputs that it was made from, which records them"
                )
            groups = (file.read_row_group(group, columns=["source"]) for group in range(file.num_row_groups))
            numbers = list(_shards_of(listed, manifest, (group["source"][0].as_py() for group in groups)))
    return Base(manifest, numbers or [])


def _shards_of(listed: ListedInputs, manifest: Manifest, sources: Iterable[str]) -> Iterator[int]:
    """The shards of some of the inputs of a new dataset of all listed ones."""
    listed.database.execute(
        "CREATE TABLE place AS SELECT path, (DENSE_RANK() OVER (ORDER BY rank, key) - 1) / "
        f"{manifest.samples_per_shard} AS shard FROM input"
    )
    listed.database.execute("CREATE INDEX place_path ON place (path)")
    for source in sources:
        row = listed.database.execute("SELECT shard FROM place WHERE path = ?", (readable_bytes(source),)).fetchone()
        yield row[0]


def shard_tables(
    out: Storage, base: Base, numbers: Collection[int] | None = None, columns: list[str] | None = None
) -> Iterator[ShardTables]:
    """Read the tables of a finished dataset shard by shard: of the shards `numbers`, or of all that have rows."""
    schema = INDEX_SCHEMA if columns is None else pa.schema([INDEX_SCHEMA.field(name) for name in columns])
    with out.parquet(INDEX) as index, out.parquet(REJECTS) as rejects:
        samples = {number: group for group, number in enumerate(shards_of_index(index))}
        rejected = {number: group for group, number in enumerate(base.shards_of_rejects)}
        for number in sorted(samples.keys() | rejected.keys() if numbers is None else numbers):
            yield ShardTables(
                number,
                with_columns(index.read_row_group(samples[number], columns), schema)
                if number in samples
                else schema.empty_table(),
                with_columns(rejects.read_row_group(rejected[number]), REJECTS_SCHEMA)
                if number in rejected
                else REJECTS_SCHEMA.empty_table(),
            )


def input_keys(rows: pa.Table, manifest: Manifest) -> list[str]:
    """The key of the input of each sample; of a segment it is that of its file."""
    keys: list[str] = rows["key"].to_pylist()
    if manifest.layout == "triplets":
        keys = [named[1] if (named := _TRIPLET_KEY.fullmatch(key)) else key for key in keys]
    return [parent or key for parent, key in zip(rows["parent"].to_pylist(), keys, strict=True)]


def key_by_path(source: str, keys: Keys) -> str:
    """The key that an input has by its path; rejects do not record keys."""
    path = path_text(readable_bytes(source))
    return sample_key(path, keys, is_folder=media_of(path) is None)


def write_previous(out: Storage, change: Change) -> None:
    """Keep the rows of the shards that are written again, so that what need not be decoded can be copied."""
    shards = {shard_number(shard.file): shard for shard in change.base.manifest.shards}
    for number, rows, rejects in shard_tables(out, change.base, change.rewritten):
        name = f"{change.base.manifest.name}-{number:06d}"
        if number in change.damaged:
            write_part(out, name, None, INDEX_SCHEMA.empty_table(), rejects, PREVIOUS)
            continue
        shard = shards.get(number)
        part = Part(
            name=name,
            inputs=0,
            samples=rows.num_rows,
            frames=sum(rows["num_frames"].to_pylist()),
            bytes=shard.bytes if shard else 0,
            sha256=shard.sha256 if shard else "",
            reasons={},
            left_out={},
            seconds={},
            max_timestamp_error_s=0.0,
        )
        write_part(out, name, part, rows, rejects, PREVIOUS)


def names_of(source: str, key: str) -> set[str]:
    """Names of an input in a list of removed ones: its source, its key, and the YouTube ID in a key of Kinetics."""
    named = _KINETICS_KEY.fullmatch(key)
    return {source, key, named[1]} if named else {source, key}


def without_removed(sources: Iterable[Source], removed: Collection[str]) -> Iterator[Source]:
    """The inputs that were not removed from the dataset."""
    removed = frozenset(removed)
    return (source for source in sources if removed.isdisjoint(names_of(readable(source.path), source.key)))


class KnownInputs:
    """The inputs of a finished dataset, in a database beside those that are listed now."""

    def __init__(self, listed: ListedInputs, out: Storage, manifest: Manifest) -> None:
        """Read index and rejects into the database of `listed`.

        Raises:
            UserError: the rejects do not record their shards, and other inputs are listed now.
        """
        self._listed, self._database = listed, listed.database
        self.base = open_base(out, manifest, listed)
        self._database.create_function("rank_of", 1, lambda key: shuffle_rank(key, manifest.seed), deterministic=True)
        self._database.execute(
            "CREATE TABLE sample (path BLOB, key TEXT, class_name TEXT, label INTEGER, shard INTEGER, "
            "UNIQUE (path, class_name))"
        )
        self._database.execute("CREATE TABLE reject (path BLOB, reason TEXT, shard INTEGER)")
        columns = ["class_name", "label", "source"]
        for number, rows, rejects in shard_tables(out, self.base, columns=["key", *columns, "parent"]):
            values = (rows[column].to_pylist() for column in columns)
            samples = zip(input_keys(rows, manifest), *values, strict=True)
            self._database.executemany(
                "INSERT OR IGNORE INTO sample VALUES (?, ?, ?, ?, ?)",
                ((readable_bytes(source), key, *of_class, number) for key, *of_class, source in samples),
            )
            self._database.executemany(
                "INSERT INTO reject VALUES (?, ?, ?)",
                ((readable_bytes(row["source"]), row["reason"], number) for row in rejects.to_pylist()),
            )
        for table, column in (("input", "path"), ("input", "key"), ("sample", "key"), ("reject", "path")):
            self._database.execute(f"CREATE INDEX {table}_{column} ON {table} ({column})")
        self._database.execute(
            "UPDATE input SET shard = COALESCE((SELECT shard FROM sample WHERE sample.path = input.path), "
            "(SELECT shard FROM reject WHERE reject.path = input.path))"
        )

    def _count(self, query: str, *arguments: object) -> int:
        count: int = self._database.execute(query, arguments).fetchone()[0]
        return count

    @property
    def spans(self) -> int:
        """Number of listed spans of files that the dataset has."""
        return self._count("SELECT COUNT(*) FROM input WHERE start IS NOT NULL AND shard IS NOT NULL")

    @property
    def new(self) -> int:
        """Number of listed inputs that the dataset does not have."""
        return self._listed.count("shard IS NULL")

    @property
    def gone(self) -> int:
        """Number of paths of the dataset that are not listed."""
        known = "SELECT path FROM sample UNION SELECT path FROM reject"
        return self._count(f"SELECT COUNT(*) FROM ({known}) WHERE path NOT IN (SELECT path FROM input)")

    def check_classes(self, out: Storage) -> None:
        """Check that no sample is listed with another class than it has.

        Raises:
            UserError: names one.
        """
        self._database.execute("CREATE TABLE class_name (class BLOB PRIMARY KEY, name TEXT)")
        names = {path_bytes(folder): name for folder, name in self._listed.classes().items()}
        self._database.executemany("INSERT INTO class_name VALUES (?, ?)", {b"": "", **names}.items())
        changed = self._database.execute(
            "SELECT path, class_name, (SELECT name FROM input JOIN class_name USING (class) WHERE path = sample.path) "
            "AS now FROM sample WHERE now IS NOT NULL AND class_name NOT IN "
            "(SELECT name FROM input JOIN class_name USING (class) WHERE path = sample.path) ORDER BY path"
        ).fetchone()
        if changed is not None:
            raise UserError(
                f"{out} has inputs that are of another class now: {readable(path_text(changed[0]))} is of "
                f"{changed[1]!r} (recorded), {changed[2]!r} (now). Give the same classes, or choose another --out"
            )

    def retried(self) -> set[int]:
        """Shards with a reject that may become a sample."""
        rows = self._database.execute(
            "SELECT DISTINCT shard FROM reject WHERE reason != ? AND path IN (SELECT path FROM input)",
            (Reason.DUPLICATE_KEY.value,),
        )
        return {number for (number,) in rows}

    def lost(self, damaged: Collection[int]) -> dict[int, str]:
        """Those of the `damaged` shards that cannot be written again, and an input of each that is not listed."""
        marks = ", ".join(map(str, damaged))
        rows = self._database.execute(
            f"SELECT shard, MIN(path) FROM sample WHERE shard IN ({marks}) AND path NOT IN (SELECT path FROM input) "
            "GROUP BY shard ORDER BY shard"
        )
        return {number: readable(path_text(path)) for number, path in rows}

    def change(
        self, target: Path, rewritten: Collection[int], damaged: Collection[int], samples_per_shard: int | None
    ) -> Change:
        """Plan the shards to write again and those of the new inputs, and write the plan to `target`."""
        manifest, new, fingerprint = self.base.manifest, self.new, self._listed.fingerprint()
        per_shard = samples_per_shard or max(
            manifest.samples_per_shard,
            default_samples_per_shard(self._listed.media, manifest.inputs + new, manifest.is_cut),
        )
        (first,) = self._database.execute(
            "SELECT 1 + MAX(shard) FROM (SELECT shard FROM sample UNION ALL SELECT shard FROM reject)"
        ).fetchone()
        first = max([first or 0, *(batch.first_shard + batch.shards for batch in manifest.appended)])
        labels = self._recorded_labels()
        numbers = sorted(rewritten)
        self._select(numbers)
        names, classes = self._name_classes(labels)
        with plan_writer(target) as writer:
            for number in numbers:
                writer.write(self._listed.planned(f"shard = {number}", classes))
            shards = self._listed.plan_new(writer, classes, per_shard)
        batch = Batch(
            first_shard=first,
            shards=shards,
            inputs=new,
            samples_per_shard=per_shard,
            source_fingerprint=fingerprint,
        )
        plan = Plan(
            media=self._listed.media,
            classes=names,
            inputs=self._listed.count(),
            samples_per_shard=per_shard,
            shards=len(numbers) + shards,
            fingerprint=fingerprint,
            ignored=self._listed.ignored,
            numbers=[*numbers, *range(first, first + shards)],
        )
        appended = [*manifest.appended, *([batch] if new else [])]
        header = new_header(manifest, classes=names, inputs=manifest.inputs + new, appended=appended)
        return Change(self.base, plan, header, numbers, list(damaged))

    def _select(self, numbers: list[int]) -> None:
        """Keep the new inputs and those of the shards `numbers`; mark what need not or must not be decoded."""
        of_shards = f"shard IN ({', '.join(map(str, numbers))})"
        columns = "INSERT INTO input (path, key, class, media, fault, rank, shard, kept)"
        gone = f"{of_shards} AND path NOT IN (SELECT path FROM input)"
        self._database.execute(
            f"{columns} SELECT DISTINCT path, key, X'', '', '', rank_of(key), shard, 1 FROM sample WHERE {gone}"
        )
        self._database.execute(  # the keys of rejects are not recorded: they come last
            f"{columns} SELECT DISTINCT path, '', X'', '', '', X'{'ff' * 17}', shard, 1 FROM reject WHERE {gone} "
            "AND NOT EXISTS (SELECT 1 FROM sample WHERE sample.path = reject.path AND sample.shard = reject.shard)"
        )
        self._database.execute(f"DELETE FROM input WHERE shard IS NOT NULL AND NOT {of_shards}")
        owner = "SELECT path FROM sample WHERE sample.key = input.key AND sample.shard IS NOT input.shard"
        self._database.execute(f"UPDATE input SET owner = ({owner}) WHERE NOT kept AND EXISTS ({owner})")
        # Inputs of one key whose others are rejects meet in one shard, where one of them becomes the sample.
        meeting = "SELECT MIN(other.shard) FROM input AS other WHERE other.key = input.key AND NOT other.kept"
        self._database.execute(f"UPDATE input SET shard = COALESCE(({meeting}), shard) WHERE NOT kept AND owner = X''")
        self._database.execute("CREATE INDEX input_shard ON input (shard)")

    def _recorded_labels(self) -> Classes:
        """Name and label of each listed class folder of which the dataset has samples."""
        names = self._listed.classes()
        rows = self._database.execute("SELECT DISTINCT class, class_name, label FROM input JOIN sample USING (path)")
        return {
            path_text(folder): (name, label) for folder, name, label in rows if names.get(path_text(folder)) == name
        }

    def _name_classes(self, recorded: Classes) -> tuple[list[str], Classes]:
        """Class name of each label, and name and label of each class folder; new classes get the next labels."""
        names, classes = list(self.base.manifest.classes), dict(recorded)
        known = Counter(names)
        for folder, name in self._listed.classes("NOT kept").items():
            if folder in classes:
                continue
            if known[name] > 1:
                raise UserError(
                    f"the class {name!r} is that of several labels of the dataset: keep one of its inputs in "
                    f"{folder!r}, so that its label is known"
                )
            if name not in known:
                names.append(name)
            classes[folder] = (name, names.index(name) if name in known else len(names) - 1)
        return names, classes


def new_header(manifest: Manifest, **changes: object) -> dict[str, Any]:
    """The fields of a manifest that do not depend on its shards, with changes."""
    of_shards = {"tables", "samples", "frames", "rejects", "shards"}
    return manifest.model_copy(update=changes).model_dump(mode="json", exclude=of_shards)
