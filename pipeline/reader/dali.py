"""The DALI back end: the graph on the CPU or a GPU, whose views become torch tensors without a copy."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.reader.feed import Feed
from pipeline.reader.graph import build_graph, dali_decoder


class DaliBackend:
    """Views of batches, made by DALI; see `pipeline.reader.backend.Backend`."""

    def __init__(
        self,
        sizes: Sequence[int],
        clips: int,
        feed: Callable[[], Feed],
        threads: int,
        prefetch: int,
        device: torch.device,
    ) -> None:
        device_id = (device.index or 0) if device.type == "cuda" else None
        self._device, self._on_gpu = device, device_id is not None
        self._elements = sum(clips * 3 * size * size for size in sizes)
        self.decoder = dali_decoder(device_id)
        self._pipeline: Any = build_graph(clips * len(sizes), feed, threads, device_id, prefetch)

    def run(self) -> Tensor:
        """The views of the next batch.

        On a GPU, torch's current stream waits for them, so the host does not. What torch runs on it next reads views
        that are written: DALI has the stream wait for them. And DALI does not write into their memory too early: it
        takes the block back once its last view is gone and the device has done all work that was queued until then.
        """
        (views,) = self._pipeline.run(torch.cuda.current_stream(self._device) if self._on_gpu else None)
        return torch.utils.dlpack.from_dlpack(views.as_reshaped_tensor([self._elements]))

    def close(self) -> None:
        """Stop all threads."""
        self._pipeline = None
