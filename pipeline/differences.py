"""How two nested settings differ: the one test of whether an output folder belongs to the same job."""

from collections.abc import Collection, Mapping
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names; the items of a list of mappings are named by their numbers."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any], ignored: Collection[str] = ()) -> str:
    """`key = A (recorded), B (now)` for every setting that differs, in order of the keys; empty if none does.

    A missing key counts as None. `ignored` names keys or whole groups that may differ.
    """
    before, now = flatten(recorded), flatten(current)
    return "; ".join(
        f"{key} = {before.get(key)!r} (recorded), {now.get(key)!r} (now)"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{name}.") for name in ignored)
    )
