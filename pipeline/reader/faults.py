"""Errors that name the sample a back end failed on: its own do not, so the frames are decoded one at a time."""

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.dataset import INDEX, ShardDataset
from pipeline.jpeg import JpegError, check_jpeg
from pipeline.settings import UserError

SizeReader = Callable[[np.ndarray], tuple[int, int]]
"""Width and height of a JPEG as decoded; after an error, every later call may raise one."""
_MOST_NAMED = 3


class BatchFrame(NamedTuple):
    """A frame of a batch."""

    dataset: ShardDataset
    row: int
    """Row of its sample within the dataset."""
    frame: int

    @property
    def sample(self) -> str:
        """Key and shard of its sample, for messages."""
        shard = self.dataset.manifest.shards[self.dataset.shard[self.row]].file
        return f"sample {self.dataset.keys[self.row]} in {self.dataset.folder}/{shard}"


class FrameDecoder(NamedTuple):
    """How a back end decodes single frames."""

    name: str
    """Of the back end, for messages."""
    failures: tuple[type[Exception], ...]
    """Errors that it raises when it cannot use a frame."""
    open: Callable[[], SizeReader]
    """A new decoder; it may fail as well."""


def _working(decoder: FrameDecoder) -> SizeReader | None:
    """A decoder that works, or None if even a test image does not decode."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "JPEG")
    try:
        size_of = decoder.open()
        size_of(np.frombuffer(stream.getvalue(), np.uint8))
    except decoder.failures:
        return None
    return size_of


def _summary(error: Exception) -> str:
    """The line of a message that names the cause, of DALI's without the traceback of its graph."""
    message = str(error).rpartition("encountered:")[2]
    lines = [line.strip() for line in message.splitlines()]
    causes = [line for line in lines if line and not line.startswith("Critical error in pipeline")]
    return causes[0].rstrip(".") if causes else type(error).__name__


def _fault(frame: BatchFrame, decoder: FrameDecoder, size_of: SizeReader | None) -> str | None:
    """What is wrong with a frame and what to do, or None if nothing is."""
    dataset, row, number = frame
    name = f"frame {number} of {frame.sample}"
    jpeg = dataset.frame(row, number)
    size = int(dataset.width[row]), int(dataset.height[row])
    try:
        stored = check_jpeg(jpeg.tobytes())
    except JpegError as error:
        return f"{name} is damaged: {error}. {dataset.repair_hint}"
    if stored != size:
        recorded = f"{INDEX} says {size[0]} x {size[1]}"
        return f"{name} has {stored[0]} x {stored[1]} pixels, but {recorded}. {dataset.repair_hint}"
    if size_of is None:
        return None
    remedy = "Remove its input or save it as an ordinary JPEG, and write the shards again"
    try:
        decoded = size_of(jpeg)
    except decoder.failures as error:
        return f"{name} is whole, but {decoder.name} cannot decode it: {_summary(error)}. {remedy}"
    if decoded != size:
        seen = f"{decoder.name} decodes {decoded[0]} x {decoded[1]}"
        return f"{name} has {size[0]} x {size[1]} pixels, but {seen}. {remedy}"
    return None


def explain_failure(error: Exception, where: str, frames: Sequence[BatchFrame], decoder: FrameDecoder) -> UserError:
    """The error to raise after a back end failed `where` (such as "in step 7") on `frames`.

    It names the frame at fault, or all samples if each frame decodes alone.
    """
    size_of = _working(decoder)
    for frame in frames:
        if (fault := _fault(frame, decoder, size_of)) is not None:
            return UserError(fault)
    samples = list(dict.fromkeys(frame.sample for frame in frames))
    named = ", ".join(samples[:_MOST_NAMED])
    more = f" and {len(samples) - _MOST_NAMED} more" if len(samples) > _MOST_NAMED else ""
    cause = (
        "Each of their frames decodes alone, so the data is not damaged; possibly out of memory: use a smaller batch"
        if size_of is not None
        else "It cannot decode a test image either: check this machine's memory and GPU"
    )
    return UserError(f"{decoder.name} failed {where}, on {named}{more}: {_summary(error)}. {cause}")
