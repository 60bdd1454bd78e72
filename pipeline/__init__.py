"""Data pipeline: media files -> WebDataset shards (`pipeline.shards`) -> training batches (`pipeline.reader`)."""
