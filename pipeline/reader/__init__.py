"""Shards -> training batches: a plan (`pipeline.sampling`) that DALI executes.

settings.py  options of the reader            table.py   what the plan needs to know about the data
mixture.py   the open datasets as one         cache.py   remote shards as local files
graph.py     the DALI graph                   feed.py    a plan as the inputs of the graph
loader.py    plans and reads ahead, and       faults.py  names the sample that DALI failed on
             returns a Batch (batch.py)

Only graph.py, feed.py, faults.py and loader.py import DALI.
"""
