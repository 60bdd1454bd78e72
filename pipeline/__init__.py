"""Data pipeline: media files -> WebDataset shards (`pipeline.shards`) -> training batches (`pipeline.reader`)."""

from pipeline import startup as startup  # before anything that takes time to import
