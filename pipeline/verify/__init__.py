"""Check a finished dataset: all files against each other, and every picture by decoding it."""
