"""Work on Ray Data actors: each item is done once, what it gives lies in storage, and the caller hears of it."""

import functools
import socket
from collections.abc import Iterator
from typing import Any, Protocol

import ray

from pipeline.settings import UserError

KEPT = "finished parts are kept, run the same command again to continue"


class Worker(Protocol):
    """A class whose objects do items, for instance the features of one shard."""

    def run(self, item: int) -> int:
        """Do one item and write its result; returns what the caller shall know of it."""


class _Actor:
    """A failure is a value: Ray would retry it, and lose what it was. The worker is made for the first item."""

    def __init__(self, worker: type[Worker], arguments: dict[str, Any], out: str) -> None:
        self._make, self._out = functools.partial(worker, **arguments), out

    @functools.cached_property
    def _worker(self) -> Worker:
        return self._make()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"item": row["item"], "result": self._worker.run(int(row["item"])), "failure": ""}
        except (UserError, ModuleNotFoundError, OSError) as error:
            return {"item": row["item"], "result": 0, "failure": sentence(error, self._out)}


def sentence(error: Exception, out: str) -> str:
    """What to tell the user of a fault that they can mend; `out` names the output."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        what = f"the node {socket.gethostname()} lacks the package {error.name}: install the same packages on all nodes"
    elif isinstance(error, OSError):
        what = f"cannot read or write {error.filename or out}: {error.strerror or error}"
    else:
        what = f"the Ray cluster could not finish the work: {str(error).splitlines()[0]}"
    return f"{what}; {KEPT}"


def actors_that_fit(nodes: list[dict[str, float]], cpus: int, gpus: int) -> int:
    """How many actors of `cpus` cores and `gpus` GPUs each find room on `nodes` (the resources of each) at once."""
    room = [node.get("CPU", 0) // cpus for node in nodes]
    if gpus:
        room = [min(cores, node.get("GPU", 0) // gpus) for cores, node in zip(room, nodes, strict=True)]
    return int(sum(room))


def run_on_actors(
    worker: type[Worker],
    arguments: dict[str, Any],
    items: list[int],
    out: str,
    cpus: int,
    workers: int | None,
    gpus: bool = False,
) -> Iterator[tuple[int, int]]:
    """Yield (item, result) when done, in any order; needs a Ray session. What a dead node had begun runs elsewhere.

    An actor holds `cpus` cores; with `gpus` also one GPU, where the cluster has any.

    Raises:
        UserError: the work cannot be done; `out` is how it names the output.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = min(cpus, max(int(node.get("CPU", 0)) for node in nodes) or cpus)  # more would wait for ever
    gpu = int(gpus and any(node.get("GPU", 0) for node in nodes))
    actors = min(actors_that_fit(nodes, cpus, gpu), len(items), workers or len(items))
    rows = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
    try:
        done = rows.map(
            _Actor,
            fn_constructor_args=(worker, arguments, out),
            concurrency=max(1, actors),
            num_cpus=cpus,
            num_gpus=gpu or None,
        )
        for row in done.iter_rows():
            if row["failure"]:
                raise UserError(row["failure"])
            yield row["item"], row["result"]
    except ray.exceptions.RayError as error:
        raise UserError(sentence(error, out)) from error
