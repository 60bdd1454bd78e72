"""Data pipeline: media files -> WebDataset shards (`pipeline.shards`) -> training batches (`pipeline.reader`).

The public names are imported at first use: `Batch` and `Loader` need torch and DALI.
"""

import importlib
from typing import TYPE_CHECKING

from pipeline import startup as startup  # before anything that takes time to import

__all__ = ["Batch", "Loader", "ReaderSettings", "ShardDataset"]

if TYPE_CHECKING:
    from pipeline.dataset import ShardDataset
    from pipeline.reader.batch import Batch
    from pipeline.reader.loader import Loader
    from pipeline.reader.settings import ReaderSettings
else:
    _MODULES = {
        "Batch": "pipeline.reader.batch",
        "Loader": "pipeline.reader.loader",
        "ReaderSettings": "pipeline.reader.settings",
        "ShardDataset": "pipeline.dataset",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)
