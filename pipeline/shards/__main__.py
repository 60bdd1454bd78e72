"""`python -m pipeline.shards`."""

import time

import pyarrow as pa

from pipeline.dataset import INDEX, INDEX_SCHEMA, REJECTS, clips_by_frames, repair_hint, with_columns
from pipeline.sampling.distance import distance_notes, triplet_distances
from pipeline.sampling.sandwich import SandwichSettings
from pipeline.settings import UserError, run_command
from pipeline.shards.advice import Lengths, advice_on_short_clips, too_short_by_frames
from pipeline.shards.command import ShardsCommand
from pipeline.shards.finished import input_keys, key_by_path
from pipeline.shards.job import Outcome, ShardJob
from pipeline.spec import Reason

REJECTS_SHOWN = 5


def _summary(command: ShardsCommand, outcome: Outcome, seconds: float) -> str:
    manifest, report, out = outcome.manifest, outcome.report, outcome.out
    gigabytes = sum(shard.bytes for shard in manifest.shards) / 1e9
    media = manifest.media
    state = f"in {seconds:.1f} s" if report else "already there"
    content = f"{manifest.samples} samples of {len(manifest.classes)} classes, {manifest.frames} frames"
    lines = [f"{content}, {gigabytes:.3f} GB in {out} {state}"]
    if len(manifest.classes) < 2 < manifest.inputs:
        lines.append("note: fewer than two classes; is DATA a folder of class folders?")
    if report:
        running, written = report["seconds_running"], report["inputs_written"]
        if running:
            inputs = "files" if manifest.is_cut else media
            rate = f"{written / running:.1f}/s, without starting and stopping Ray"
            lines.append(f"{written} {inputs} in {running:.1f} s, {rate}")
        stages = ", ".join(f"{stage} {value:.1f} s" for stage, value in report["stage_seconds"].items())
        lines.append(f"time of all workers (decode includes encode): {stages}")
        if report["ignored"]:
            lines.append("skipped: " + ", ".join(f"{count} {kind}" for kind, count in report["ignored"].items()))
        if media == "clips" and command.frames.timing == "reference":
            lines.append(
                f"largest difference between a frame's time and its picture's: {report['max_timestamp_error_s']:.3f} s"
            )
    if outcome.reasons:
        by_reason = ", ".join(f"{count} {reason}" for reason, count in sorted(outcome.reasons.items()))
        lines.append(f"rejects: {by_reason}; all in {out}/{REJECTS}, the first are")
        with out.parquet(REJECTS) as file:
            first = next(file.iter_batches(batch_size=REJECTS_SHOWN)).to_pylist()
        lines += [f"  {row['source']}: {row['reason']}, {row['detail']}".replace("\n", " ") for row in first]
    if media == "clips":
        lines += _lengths(command, outcome)
    return "\n".join(lines)


def _lengths(command: ShardsCommand, outcome: Outcome) -> list[str]:
    """How far apart the frames of triplets will lie, and what to do if many clips are too short."""
    manifest, out = outcome.manifest, outcome.out
    try:
        clips = clips_by_frames(out, manifest)
        short = too_short_by_frames(out) if Reason.TOO_SHORT.value in outcome.reasons else {}
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read the tables of {out} ({error}). {repair_hint(out)}") from error
    sandwich = SandwichSettings(unit=command.triplets.unit if manifest.layout == "triplets" else "fraction")
    distances = triplet_distances(sandwich, clips, command.frames.fps)
    lines = distance_notes(distances, sandwich, manifest.layout) if distances else []
    advice = advice_on_short_clips(Lengths(clips, short, command.frames), sampled=command.media != "frames")
    return [*lines, *([f"note: {advice}"] if advice else [])]


def _rejected(command: ShardsCommand, outcome: Outcome) -> tuple[int, int]:
    """Rejected and all inputs, or segments if files are cut.

    With annotations a clip counts once, as rejected if none of its files decoded.
    """
    manifest, out = outcome.manifest, outcome.out
    if manifest.is_cut or command.annotations is None or not manifest.rejects:
        return manifest.rejects, manifest.candidates
    try:
        with out.parquet(INDEX) as index, out.parquet(REJECTS) as rejects:
            schema = pa.schema([INDEX_SCHEMA.field(name) for name in ("key", "parent")])
            samples = {*input_keys(with_columns(index.read(columns=schema.names), schema), manifest)}
            sources = rejects.read(columns=["source"])["source"].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"the tables of {out} cannot be read ({error}). {repair_hint(out)}") from error
    others = (source for source in sources if key_by_path(source, "stem") not in samples)
    rejected = {key_by_path(source, manifest.keys) for source in others} - samples
    return len(rejected), len(rejected | samples)


def _advice(command: ShardsCommand, outcome: Outcome) -> str:
    """What to do about many rejects, by the most frequent reason."""
    most = max(outcome.reasons, key=lambda reason: outcome.reasons[reason])
    if most == Reason.DUPLICATE_KEY.value and command.annotations is None:
        same = "Most have the same name as another input, or the same times in a list"
        advice = f"{same}. If they are no copies, give --keys path and a new OUT"
        return advice if command.media == "frames" else f"{advice}; if they are frames of clips, --media frames"
    if most == Reason.MIXED_NAMES.value:
        return "Most hold images of several kinds: choose the frames with --frames.pattern, in a new OUT"
    return "If that is expected, raise --max_reject_fraction and run the same command again"


def main(command: ShardsCommand) -> int:
    """Run the job and print its summary; returns the exit status."""
    started = time.perf_counter()
    outcome = ShardJob(command).run()
    print(_summary(command, outcome, time.perf_counter() - started))
    rejected, inputs = _rejected(command, outcome)
    if rejected > command.max_reject_fraction * inputs:
        counted = "segments" if outcome.manifest.is_cut else "inputs"
        raise UserError(
            f"{rejected} of {inputs} {counted} were rejected, more than max_reject_fraction = "
            f"{command.max_reject_fraction:g}; the dataset is complete without them. "
            f"{_advice(command, outcome)}"
        )
    return 0


if __name__ == "__main__":
    run_command(ShardsCommand, main)
