"""Media files -> WebDataset shards of frames with one index."""
