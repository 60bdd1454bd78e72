"""Write the missing shards of a plan on the actors of a Ray session."""

import functools
from collections import Counter
from contextlib import ExitStack
from typing import NamedTuple

from tqdm import tqdm

from pipeline.dataset import PARTS
from pipeline.ray.actors import KEPT, Done, run_on_actors
from pipeline.settings import UserError
from pipeline.shards.parts import Part, read_part
from pipeline.shards.plan import Plan
from pipeline.shards.shard import ShardTask, write_shard
from pipeline.shards.versions import check_versions
from pipeline.spec import Reason


class Written(NamedTuple):
    """All parts of a job in shard order, and figures of the run that completed them."""

    parts: list[Part]
    inputs: int
    """Inputs of the shards that were written in this run."""
    seconds_running: float
    """From the first start to the last end of a task."""
    task_seconds: float
    """Sum over all tasks."""


class _Writer:
    """Writes shards on a node with the same decoders as the machine that started the job."""

    def __init__(self, task: ShardTask, versions: dict[str, str], retry: bool) -> None:
        check_versions(versions)
        self._task, self._retry = task, retry

    def run(self, item: int) -> int:
        """Write the shard with number `item`."""
        write_shard(item, self._task, self._retry)
        return 0


def _may_gain_samples(part: Part) -> bool:
    return bool(set(part.reasons) - {Reason.DUPLICATE_KEY.value})


def _read_written(done: Done, task: ShardTask) -> Part:
    name = task.shard_name(done.item)
    part = read_part(task.out, name)
    if part is None:
        raise UserError(
            f"{done.host} wrote {name} to {task.out}, but this machine does not see it there: OUT must be on storage "
            f"that all nodes share; {KEPT}"
        )
    return part


def write_missing(plan: Plan, task: ShardTask, versions: dict[str, str], retry: bool, workers: int | None) -> Written:
    """Write all shards of the plan that are not finished, with a progress bar; Ray starts only if there are any.

    Raises:
        UserError: the output cannot be written, or a node has other `versions` than this machine.
    """
    parts = {shard: read_part(task.out, task.shard_name(shard)) for shard in range(plan.shards)}
    finished = {shard: part for shard, part in parts.items() if part is not None}
    pending = [shard for shard in parts if shard not in finished or (retry and _may_gain_samples(finished[shard]))]
    kept = sum(finished[shard].inputs for shard in finished.keys() - set(pending))
    rejects = Counter({shard: part.rejects for shard, part in finished.items()})
    unit = " images" if plan.media == "images" else " clips"
    tasks: list[Done] = []
    with ExitStack() as stack:
        stack.callback(task.out.clean, PARTS)
        stack.callback(task.out.clean)
        bar = stack.enter_context(tqdm(total=plan.inputs, initial=kept, unit=unit, desc="shards", smoothing=0))
        if pending:
            if workers != 0:
                from pipeline.ray.session import ray_session  # loads Ray

                stack.enter_context(ray_session(workers))
            make_writer = functools.partial(_Writer, task, versions, retry)
            for done in run_on_actors(make_writer, pending, str(task.out), workers=workers):
                tasks.append(done)
                finished[done.item] = part = _read_written(done, task)
                rejects[done.item] = part.rejects
                bar.update(part.inputs)
                bar.set_postfix_str(f"rejects={rejects.total()}")
    return Written(
        parts=[finished[shard] for shard in range(plan.shards)],
        inputs=plan.inputs - kept,
        seconds_running=max(done.ended for done in tasks) - min(done.started for done in tasks) if tasks else 0.0,
        task_seconds=sum(done.ended - done.started for done in tasks),
    )
