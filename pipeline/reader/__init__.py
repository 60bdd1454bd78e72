"""Shards -> training batches: a NumPy plan that DALI executes.

order.py     which samples a step visits             masks.py    which patches are masked
sandwich.py  which frames make a triplet             views.py    boxes and photometric draws
plan.py      all of it for one rank's part of a step: a pure function of seed, step, batch size, data and settings

sources.py   the open datasets as one row of samples (pipeline/dataset.py reads the bytes)
cache.py     remote shards as local files            color.py   photometric draws as matrices
graph.py     the DALI graph                          feed.py     a plan as its inputs
loader.py    plans ahead, reads ahead, and hands out a Batch (batch.py) of torch tensors
"""
