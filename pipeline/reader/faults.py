"""Errors that name the sample DALI failed on: its own do not, so the frames of a batch are decoded one at a time."""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.dataset import INDEX, ShardDataset
from pipeline.jpeg import JpegError, check_jpeg
from pipeline.reader.graph import ENCODED, build_decoder
from pipeline.settings import UserError

DALI_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)
"""Errors that DALI raises when one of its operators fails."""
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


class _Decoder:
    """Decodes single frames as the reader's graph does."""

    def __init__(self, device_id: int | None) -> None:
        self._pipeline = build_decoder(device_id)

    def size(self, jpeg: np.ndarray) -> tuple[int, int]:
        """Width and height as decoded; raises one of `DALI_ERRORS` if that fails, and in every later call."""
        self._pipeline.feed_input(ENCODED, [jpeg])
        (image,) = self._pipeline.run()
        height, width, _ = image.shape()[0]
        return width, height


def _decoder(device_id: int | None) -> _Decoder | None:
    """A decoder that works, or None if even a test image does not decode."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32)).save(stream, "JPEG")
    try:
        decoder = _Decoder(device_id)
        decoder.size(np.frombuffer(stream.getvalue(), np.uint8))
    except DALI_ERRORS:
        return None
    return decoder


def _summary(error: Exception) -> str:
    """The line of DALI's message that names the cause, without the traceback of the graph."""
    message = str(error).rpartition("encountered:")[2]
    lines = [line.strip() for line in message.splitlines()]
    causes = [line for line in lines if line and not line.startswith("Critical error in pipeline")]
    return causes[0].rstrip(".") if causes else type(error).__name__


def _fault(frame: BatchFrame, decoder: _Decoder | None) -> str | None:
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
    if decoder is None:
        return None
    remedy = "Remove its input or save it as an ordinary JPEG, and write the shards again"
    try:
        decoded = decoder.size(jpeg)
    except DALI_ERRORS as error:
        return f"{name} is whole, but DALI cannot decode it: {_summary(error)}. {remedy}"
    if decoded != size:
        return f"{name} has {size[0]} x {size[1]} pixels, but DALI decodes {decoded[0]} x {decoded[1]}. {remedy}"
    return None


def explain_failure(error: Exception, where: str, frames: Sequence[BatchFrame], device_id: int | None) -> UserError:
    """The error to raise after DALI failed `where` (such as "in step 7") on `frames`.

    It names the frame at fault, or all samples if each frame decodes alone.
    """
    decoder = _decoder(device_id)
    for frame in frames:
        if (fault := _fault(frame, decoder)) is not None:
            return UserError(fault)
    samples = list(dict.fromkeys(frame.sample for frame in frames))
    named = ", ".join(samples[:_MOST_NAMED])
    more = f" and {len(samples) - _MOST_NAMED} more" if len(samples) > _MOST_NAMED else ""
    cause = (
        "Each of their frames decodes alone, so the data is not damaged; possibly out of memory: use a smaller batch"
        if decoder is not None
        else "It cannot decode a test image either: check this machine's memory and GPU"
    )
    return UserError(f"DALI failed {where}, on {named}{more}: {_summary(error)}. {cause}")
