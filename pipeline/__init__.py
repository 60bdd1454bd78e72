"""Data pipeline: media files -> WebDataset shards (`pipeline.shards`) -> training batches (`pipeline.reader`).

The public names are imported at first use: `Batch` and `Loader` need torch and DALI, `streaming` torch and webdataset.
"""

import importlib
from typing import TYPE_CHECKING

from pipeline import startup as startup  # before anything that takes time to import
from pipeline.extras import missing_extra

if TYPE_CHECKING:
    from pipeline.cache import ShardCache as ShardCache
    from pipeline.clips import ClipDataset as ClipDataset
    from pipeline.dataset import ShardDataset as ShardDataset
    from pipeline.reader.batch import Batch as Batch
    from pipeline.reader.loader import Loader as Loader
    from pipeline.reader.settings import ReaderSettings as ReaderSettings
    from pipeline.sampling.frames import Every as Every
    from pipeline.sampling.frames import Sandwich as Sandwich
    from pipeline.sampling.frames import Uniform as Uniform
    from pipeline.sampling.order import OrderSettings as OrderSettings
    from pipeline.shard_stream import streaming as streaming

_MODULES = {
    "Batch": "pipeline.reader.batch",
    "ClipDataset": "pipeline.clips",
    "Every": "pipeline.sampling.frames",
    "Loader": "pipeline.reader.loader",
    "OrderSettings": "pipeline.sampling.order",
    "ReaderSettings": "pipeline.reader.settings",
    "Sandwich": "pipeline.sampling.frames",
    "ShardCache": "pipeline.cache",
    "ShardDataset": "pipeline.dataset",
    "Uniform": "pipeline.sampling.frames",
    "streaming": "pipeline.shard_stream",
}
__all__ = list(_MODULES)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(_MODULES[name]), name)
        except ImportError as error:
            if (missing := missing_extra(error, f"pipeline.{name}")) is None:
                raise
            raise ImportError(missing, name=error.name) from error
