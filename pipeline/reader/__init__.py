"""Shards -> training batches: a plan (`pipeline.sampling`) that DALI or torch executes.

settings.py  options of the reader            table.py    what the plan needs to know about the data
mixture.py   the open datasets as one         cache.py    remote shards as local files
feed.py      a plan as arrays                 loader.py   plans and reads ahead, and returns a Batch (batch.py)
backend.py   what executes them               faults.py   names the sample that a back end failed on
dali.py      DALI: the graph of graph.py      threads.py  torch: the pixels of pixels.py, in a pool of threads

Only graph.py and dali.py import DALI; of the others, batch.py, backend.py, loader.py, threads.py and pixels.py import
torch.
"""
