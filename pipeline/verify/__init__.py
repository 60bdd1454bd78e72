"""The check of a finished dataset: every file against every other, and every picture by decoding it."""
