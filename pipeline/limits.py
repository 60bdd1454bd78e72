"""The user's own limits (`ulimit`): they are kept, and a program that they stop says so."""

import resource

_NAMES = {resource.RLIMIT_AS: "ulimit -v", resource.RLIMIT_FSIZE: "ulimit -f"}
_SMALLEST_STORE = 80 << 20
"""Bytes; Ray refuses an object store below 75 MiB."""
_SMALLEST_FILE_SIZE = 128 << 20
"""Bytes; the file of the object store is larger than the store, and where it does not fit Ray waits for ever."""
_LARGEST_STORE = 1 << 30
_SMALLEST_ADDRESS_SPACE = 4 << 30
"""Bytes of address space in which Ray starts; with 2 GB it aborts, with 1 GB it waits for ever."""
_STORE_SHARE = {resource.RLIMIT_AS: 1 / 32, resource.RLIMIT_FSIZE: 3 / 4}
"""What the object store takes of the user's limits."""


def smaller_limit(ours: int, theirs: int) -> int:
    """The smaller of two limits in bytes, either of which may be `resource.RLIM_INFINITY`."""
    return min((limit for limit in (ours, theirs) if limit != resource.RLIM_INFINITY), default=resource.RLIM_INFINITY)


def user_limit(kind: int) -> int:
    """The limit in bytes that this process runs under, or `resource.RLIM_INFINITY`."""
    return resource.getrlimit(kind)[0]


def shown_limit(kind: int) -> str:
    """The limit as the user sets it: "ulimit -v 1000000" (KiB)."""
    return f"{_NAMES[kind]} {user_limit(kind) >> 10}"


def too_small_for_ray() -> str:
    """That Ray cannot start on this machine under a limit, and the smallest that will do; empty if it can."""
    needed = {resource.RLIMIT_AS: _SMALLEST_ADDRESS_SPACE, resource.RLIMIT_FSIZE: _SMALLEST_FILE_SIZE}
    for kind, least in needed.items():
        if smaller_limit(least, user_limit(kind)) < least:
            name, shown = _NAMES[kind], shown_limit(kind)
            return f"Ray cannot start here: `{shown}` is too small for it: set {name} to {least >> 10} or more"
    return ""


def ray_store_bytes() -> int | None:
    """Size of Ray's object store that fits the user's limits; None without limits, for Ray's own choice.

    Ray makes one file of it and maps it; unlimited it takes 30 % of the memory. Little passes through it here.
    """
    limits = {kind: user_limit(kind) for kind in _STORE_SHARE if user_limit(kind) != resource.RLIM_INFINITY}
    shares = [int(limit * _STORE_SHARE[kind]) for kind, limit in limits.items()]
    return max(_SMALLEST_STORE, min(*shares, _LARGEST_STORE)) if shares else None


def limits_in_force() -> str:
    """The user's limits on memory and files, to be named where they may be why something failed; empty if none."""
    limits = [shown_limit(kind) for kind in _NAMES if user_limit(kind) != resource.RLIM_INFINITY]
    return " and ".join(f"`{limit}`" for limit in limits)
