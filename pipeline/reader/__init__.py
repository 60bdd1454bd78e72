"""Shards -> training batches: a NumPy plan that DALI executes."""
