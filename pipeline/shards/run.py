"""Write shards on the actors of a Ray session."""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.ray.actors import KEPT, run_on_actors
from pipeline.ray.session import ray_session
from pipeline.settings import UserError
from pipeline.shards.parts import Part, read_part
from pipeline.shards.shard import ShardTask, write_shard
from pipeline.shards.versions import check_versions


class Finished(NamedTuple):
    """A shard that was written in this run, and when, in seconds since the epoch."""

    part: Part
    started: float
    ended: float


class _Writer:
    """Writes shards on a node with the same decoders as the machine that started the job."""

    def __init__(self, task: ShardTask, versions: dict[str, str], retry: bool) -> None:
        check_versions(versions)
        self._task, self._retry = task, retry

    def run(self, item: int) -> int:
        """Write the shard with number `item`."""
        write_shard(item, self._task, self._retry)
        return 0


def run_shards(
    shards: list[int], task: ShardTask, versions: dict[str, str], retry: bool, workers: int | None
) -> Iterator[Finished]:
    """Write the given shards; yields each when it is done, in any order.

    Raises:
        UserError: the output cannot be written, or the nodes differ from this machine.
    """
    arguments = {"task": task, "versions": versions, "retry": retry}
    with ray_session(workers):
        for done in run_on_actors(_Writer, arguments, shards, str(task.out), workers=workers):
            part = read_part(task.out, task.shard_name(done.item))
            if part is None:
                raise UserError(
                    f"{done.host} wrote {task.shard_name(done.item)} to {task.out}, but this machine does not see it "
                    f"there: OUT must be on storage that all nodes share; {KEPT}"
                )
            yield Finished(part, done.started, done.ended)
