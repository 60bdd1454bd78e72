"""Which images of a folder are the frames of its clip, and their order, from their names alone."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise, zip_longest
from pathlib import PurePosixPath

from pipeline.shards.rejects import Rejected
from pipeline.spec import Reason

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_LONGEST_NAME = 255
_KINDS_SHOWN = 6

Key = tuple[tuple[str, int, str], ...]
"""Sort key of a name: (text, whole number, fraction) for each number in it, so names sort by their numbers."""


def _parts(name: str) -> tuple[list[str], list[str]]:
    """The texts around the numbers of a name (without its extension), and the numbers."""
    stem = PurePosixPath(name).stem
    return _NUMBER.split(stem), _NUMBER.findall(stem)


def _have_even_steps(numbers: Iterable[Fraction]) -> bool:
    ordered = sorted(numbers)
    return len({after - before for before, after in pairwise(ordered)}) == 1


def _are_counters(numbers: Sequence[str]) -> bool:
    """Whether the dot separates two counters, as in 1.9, 1.10, rather than a fraction, as in 1.5, 1.25.

    It does if fractions of different lengths end in zeros, or have even steps as counters but not as fractions.
    """
    wholes = {number.partition(".")[0] for number in numbers}
    fractions = {fraction for _, _, fraction in (number.partition(".") for number in numbers) if fraction}
    if len(set(map(len, fractions))) < 2:
        return False
    if any(len(fraction) > 1 and fraction.endswith("0") for fraction in fractions):
        return True
    even_as_counters = len(wholes) == 1 and _have_even_steps(map(Fraction, fractions))
    return even_as_counters and not _have_even_steps(map(Fraction, set(numbers)))


def _keys(names: Sequence[str]) -> dict[str, Key]:
    """Sort keys of names that differ only in their numbers."""
    parts = [_parts(name) for name in names]
    counters = [_are_counters(column) for column in zip(*(numbers for _, numbers in parts), strict=True)]
    keys = {}
    for name, (texts, numbers) in zip(names, parts, strict=True):
        pairs = []
        for number, counter in zip(numbers, counters, strict=True):
            whole, _, fraction = number.partition(".")
            pairs.append((int(whole), fraction.zfill(_LONGEST_NAME) if counter and fraction else fraction))
        keys[name] = tuple((text, *pair) for text, pair in zip_longest(texts, pairs, fillvalue=(-1, "")))
    return keys


def _kinds(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only in their numbers; split by extension if two have the same numbers."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        alike[tuple(_parts(name)[0])].append(name)
    kinds = []
    for same in alike.values():
        if len(set(_keys(same).values())) == len(same):
            kinds.append(same)
        else:
            by_extension: dict[str, list[str]] = defaultdict(list)
            for name in same:
                by_extension[PurePosixPath(name).suffix].append(name)
            kinds += by_extension.values()
    return sorted(kinds, key=lambda kind: (-len(kind), kind[0]))


def _pattern_of(kind: list[str]) -> str:
    """A regular expression that matches names of this kind."""
    number = r"[\d.]+" if any("." in n for name in kind for n in _parts(name)[1]) else r"\d+"
    extensions = sorted({re.escape(PurePosixPath(name).suffix[1:]) for name in kind})
    extension = extensions[0] if len(extensions) == 1 else f"({'|'.join(extensions)})"
    return number.join(map(re.escape, _parts(kind[0])[0])) + rf"\.{extension}"


def in_order(names: Iterable[str], chosen: bool = False) -> list[str]:
    """The names of a clip's frames in the order of their numbers; `chosen`: whether frames.pattern selected them.

    Raises:
        Rejected: they are of several kinds and not `chosen`, or two have the same numbers.
    """
    kinds = _kinds(sorted(names))
    if len(kinds) > 1 and not chosen:
        shown = ", ".join(f"{len(kind)} of '{_pattern_of(kind)}'" for kind in kinds[:_KINDS_SHOWN])
        more = f" and {len(kinds) - _KINDS_SHOWN} more kinds" if len(kinds) > _KINDS_SHOWN else ""
        raise Rejected(Reason.MIXED_NAMES, f"names of several kinds: {shown}{more}; choose with --frames.pattern")
    names_of: dict[Key, str] = {}
    for kind in kinds:
        for name, key in _keys(kind).items():
            if key in names_of:
                raise Rejected(Reason.MIXED_NAMES, f"{names_of[key]} and {name} have the same number")
            names_of[key] = name
    return [names_of[key] for key in sorted(names_of)]
