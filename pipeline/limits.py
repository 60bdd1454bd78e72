"""The user's own limits (`ulimit`), which are respected, and messages about them."""

import resource

_NAMES = {resource.RLIMIT_AS: "ulimit -v", resource.RLIMIT_FSIZE: "ulimit -f"}
_SMALLEST_STORE = 80 << 20
"""Bytes; Ray refuses an object store below 75 MiB."""
_SMALLEST_FILE_SIZE = 128 << 20
"""Bytes; the file of the object store is larger than the store, and if it does not fit Ray waits forever."""
_LARGEST_STORE = 1 << 30
_SMALLEST_ADDRESS_SPACE = 4 << 30
"""Bytes of address space in which Ray starts; with 2 GB it aborts, with 1 GB it waits forever."""
_STORE_SHARE = {resource.RLIMIT_AS: 1 / 32, resource.RLIMIT_FSIZE: 3 / 4}
"""Share of the user's limits for the object store."""


def smaller_limit(ours: int, theirs: int) -> int:
    """The smaller of two limits in bytes, either of which may be `resource.RLIM_INFINITY`."""
    return min((limit for limit in (ours, theirs) if limit != resource.RLIM_INFINITY), default=resource.RLIM_INFINITY)


def user_limit(kind: int) -> int:
    """The limit of this process in bytes, or `resource.RLIM_INFINITY`."""
    return resource.getrlimit(kind)[0]


def shown_limit(kind: int) -> str:
    """The limit in the form of the command: "ulimit -v 1000000" (KiB)."""
    return f"{_NAMES[kind]} {user_limit(kind) >> 10}"


def too_small_for_ray() -> str:
    """Message that Ray cannot start under a limit, with the smallest one that suffices; empty if it can."""
    needed = {resource.RLIMIT_AS: _SMALLEST_ADDRESS_SPACE, resource.RLIMIT_FSIZE: _SMALLEST_FILE_SIZE}
    for kind, least in needed.items():
        if smaller_limit(least, user_limit(kind)) < least:
            name, shown = _NAMES[kind], shown_limit(kind)
            return f"Ray cannot start here: `{shown}` is too small for it: set {name} to {least >> 10} or more"
    return ""


def ray_store_bytes() -> int | None:
    """Size of Ray's object store under the user's limits; None without limits, for Ray's default of 30 % of the memory.

    Ray maps the store as one file. It can be small, as only little data passes through it.
    """
    limits = {kind: user_limit(kind) for kind in _STORE_SHARE if user_limit(kind) != resource.RLIM_INFINITY}
    shares = [int(limit * _STORE_SHARE[kind]) for kind, limit in limits.items()]
    return max(_SMALLEST_STORE, min(*shares, _LARGEST_STORE)) if shares else None


def limits_in_force() -> str:
    """The user's limits on memory and files, for messages about failures that they may have caused; empty if none."""
    limits = [shown_limit(kind) for kind in _NAMES if user_limit(kind) != resource.RLIM_INFINITY]
    return " and ".join(f"`{limit}`" for limit in limits)
