"""One sample of a dataset, whose frames are read and decoded when they are asked for."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.dataset import ShardDataset
from pipeline.jpeg import JpegError, decode_jpeg
from pipeline.sampling.frames import frames_at
from pipeline.settings import UserError


class Clip:
    """A clip or an image: `clip[3]` and `clip.frames([0, 5])` decode frames by number, `clip.at([1.5])` by time."""

    def __init__(self, dataset: ShardDataset, row: int) -> None:
        """The sample at a row of a dataset."""
        self._dataset, self._row = dataset, row
        self.key, self.source = str(dataset.keys[row]), str(dataset.sources[row])
        self.label = int(dataset.label[row])
        self.class_name = dataset.manifest.classes[self.label] if self.label >= 0 else ""
        self.layout = dataset.manifest.layout
        self.size = int(dataset.width[row]), int(dataset.height[row])
        """Width and height in pixels."""
        self.duration_s = float(dataset.duration_s[row])
        """Frames divided by frames per second; 0 for an image."""

    def __len__(self) -> int:
        return int(self._dataset.num_frames[self._row])

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        return self.frames([number])[0]

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(len,) seconds of each frame after the first one; NaN in layout `triplets`."""
        if self.layout == "triplets":
            return np.full(len(self), np.nan)
        return np.arange(len(self), dtype=np.float64) * (self.duration_s / len(self))

    def jpegs(self, numbers: ArrayLike) -> list[np.ndarray]:
        """The JPEGs, (size,) uint8 each, of frames `numbers` (n,), which may count from the end.

        Raises:
            IndexError: there is no such frame.
            UserError: a shard cannot be read.
        """
        frames = np.array(numbers, np.int64).reshape(-1)
        if beyond := frames[(frames < -len(self)) | (frames >= len(self))][:1].tolist():
            raise IndexError(f"{self.key} has {len(self)} frames: there is no frame {beyond[0]}")
        return self._dataset.frames(np.full(len(frames), self._row), frames % len(self))

    def frames(self, numbers: ArrayLike) -> list[NDArray[np.uint8]]:
        """The pixels, (height, width, 3) of RGB uint8 each, of frames `numbers` (n,); raises as `jpegs`."""
        try:
            return [decode_jpeg(jpeg.data) for jpeg in self.jpegs(numbers)]
        except JpegError as error:
            raise UserError(
                f"a frame of sample {self.key} in {self._dataset.folder} is damaged: {error}. "
                f"{self._dataset.repair_hint}"
            ) from error

    def at(self, times_s: ArrayLike) -> list[NDArray[np.uint8]]:
        """The frames on display at `times_s` (n,), in seconds after the first frame.

        Raises:
            IndexError: a time is outside the clip, or the sample has no times.
            UserError: a shard cannot be read.
        """
        if self.layout == "triplets" or not self.duration_s:
            raise IndexError(f"{self.key} is an image or a triplet: its frames have no times")
        return self.frames(frames_at(np.array(times_s, np.float64).reshape(-1), len(self), self.duration_s))
