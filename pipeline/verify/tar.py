"""Check the structure of a shard: its members, their offsets and their headers."""

import tarfile
from typing import BinaryIO, NamedTuple

from pipeline.record import Member
from pipeline.verify.finding import Finding, Report

_END = bytes(2 * tarfile.BLOCKSIZE)
_HEADER_FIELDS = ("mtime", "mode", "uid", "gid", "uname", "gname", "type")


class TarSample(NamedTuple):
    """Adjacent members with the same key."""

    key: str
    members: list[Member]


def _header_fault(stream: BinaryIO, member: tarfile.TarInfo) -> str | None:
    expected = tarfile.TarInfo(member.name)
    expected.size = member.size
    stream.seek(member.offset)
    if stream.read(member.offset_data - member.offset) == expected.tobuf(tarfile.GNU_FORMAT):
        return None
    fields = [
        f"{field} {getattr(member, field)!r} instead of {getattr(expected, field)!r}"
        for field in _HEADER_FIELDS
        if getattr(member, field) != getattr(expected, field)
    ]
    return f"{member.name} has another header than the job writes ({', '.join(fields) or 'another tar format'})"


def read_tar(stream: BinaryIO, size: int, file: str, report: Report) -> list[TarSample]:
    """The samples in a shard of `size` bytes, as far as it can be read; faults go to `report`."""
    samples: list[TarSample] = []
    end = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                key, _, extension = member.name.partition(".")
                if fault := _header_fault(stream, member):
                    report(Finding(file, key, fault))
                if not samples or samples[-1].key != key:
                    samples.append(TarSample(key, []))
                samples[-1].members.append(Member(extension, member.offset_data, member.size))
    except Exception as error:  # tarfile raises all kinds of exceptions for damaged headers
        report(Finding(file, samples[-1].key if samples else "", f"the tar cannot be read from here on: {error}"))
        return samples
    stream.seek(end)
    if stream.read(len(_END) + 1) != _END:
        last = f"after {samples[-1].key}" if samples else ""
        report(Finding(file, last, f"neither a tar member nor the end of the tar at byte {end} of {size}"))
    return samples
