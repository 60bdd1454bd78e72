"""Process items on Ray Data actors, or in this process, by workers that write their results to storage."""

import functools
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from pipeline.settings import UserError

KEPT = "finished parts are kept, run the same command again to continue"


class Worker(Protocol):
    """Processes items, for instance the features of one shard."""

    def run(self, item: int) -> int:
        """Process one item and write its result; returns a number for the caller."""


class Done(NamedTuple):
    """A finished item."""

    item: int
    result: int
    host: str
    """Name of the node that processed it."""
    started: float
    ended: float
    """Seconds since the epoch, by that node's clock."""


class _Actor:
    """Processes items one after the other on a worker that is created for the first one.

    Errors that users can fix are returned: Ray would retry after an exception, and lose its type.
    """

    def __init__(self, make_worker: Callable[[], Worker], out: str) -> None:
        self._make_worker, self._out = make_worker, out

    @functools.cached_property
    def _worker(self) -> Worker:
        return self._make_worker()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        started, result, failure = time.time(), 0, ""
        try:
            result = self._worker.run(int(row["item"]))
        except (UserError, ModuleNotFoundError, OSError) as error:
            failure = sentence(error, self._out)
        done = Done(row["item"], result, socket.gethostname(), started, time.time())
        return {**done._asdict(), "failure": failure}


def sentence(error: Exception, out: str) -> str:
    """The message for an error on a node; it calls the output `out`."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        what = f"the node {socket.gethostname()} lacks the package {error.name}: install the same packages on all nodes"
    elif isinstance(error, OSError):
        what = f"cannot read or write {error.filename or out}: {error.strerror or error}"
    else:
        what = f"the Ray cluster could not finish the work: {type(error).__name__}: {error}".splitlines()[0]
    return f"{what}; {KEPT}"


def root_cause(error: BaseException) -> BaseException:
    """The first error of a chain, without the empty `SystemException` that Ray Data adds to errors of the cluster."""
    from ray.data.exceptions import SystemException

    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        if isinstance(cause, SystemException):
            break
        error = cause
    return error


def actors_that_fit(nodes: list[dict[str, float]], cpus: int, gpus: int) -> int:
    """How many actors of `cpus` cores and `gpus` GPUs fit on `nodes` (the resources of each) at once."""
    room = [node.get("CPU", 0) // cpus for node in nodes]
    if gpus:
        room = [min(cores, node.get("GPU", 0) // gpus) for cores, node in zip(room, nodes, strict=True)]
    return int(sum(room))


def _on_ray(
    actor_arguments: tuple[Callable[[], Worker], str], items: list[int], cpus: int, gpus: bool, workers: int | None
) -> Iterator[dict[str, Any]]:
    import ray  # takes a second; `--workers 0` does without

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = min(cpus, max((int(node.get("CPU", 0)) for node in nodes), default=0) or cpus)  # more would wait forever
    gpu = int(gpus and any(node.get("GPU", 0) for node in nodes))
    most = min(len(items), workers or len(items))
    first = max(1, min(most, actors_that_fit(nodes, cpus, gpu)))
    rows = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
    done = rows.map(
        _Actor,
        fn_constructor_args=actor_arguments,
        compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=first, max_size=most),
        num_cpus=cpus,
        num_gpus=gpu or None,
    )
    try:
        yield from done.iter_rows()
    except ray.exceptions.RayError as error:
        root = root_cause(error)
        if not isinstance(root, ray.exceptions.RayError | ModuleNotFoundError):
            raise
        raise UserError(sentence(root, actor_arguments[1])) from error


def run_on_actors(
    make_worker: Callable[[], Worker],
    items: list[int],
    out: str,
    *,
    cpus: int = 1,
    gpus: bool = False,
    workers: int | None = None,
) -> Iterator[Done]:
    """Process `items` in a Ray session and yield each when it is done, in any order; items of a dead node are repeated.

    Args:
        make_worker: called on each actor.
        items: numbers passed to `Worker.run`.
        out: name of the output in messages.
        cpus: cores of an actor.
        gpus: whether an actor holds one GPU, if the cluster has any.
        workers: largest number of actors; default: as many as fit, also if the cluster grows; 0: none, the items are
            processed in this process, in order.

    Raises:
        UserError: the items cannot be processed.
    """
    rows: Iterator[dict[str, Any]]
    if workers == 0:
        rows = map(_Actor(make_worker, out), ({"item": item} for item in items))
    else:
        rows = _on_ray((make_worker, out), items, cpus, gpus, workers)
    for row in rows:
        failure = row.pop("failure")
        if failure:
            raise UserError(failure)
        yield Done(**row)
