"""Results of all ranks of a training run."""

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def of_all_ranks(value: T) -> list[T]:
    """The values of all ranks, in their order; all ranks call this. Only its own where there are no others."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
