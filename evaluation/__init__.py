"""Label propagation benchmarks on frozen features: `python -m evaluation TASK --data DIR --weights FILE --out DIR`.

frames      images and index masks from disk, the network's input
backbones   exported weights -> patch features of a batch of frames
labels      index mask <-> soft labels on the patch grid
propagation features of a clip + labels of its first frame -> labels of every frame
command     what the tasks share: options, and the output folder with its result file
pictures    prediction masks and contact sheets
davis       DAVIS-2017: the data set and the task; its scores in davis_scores

A task is one module with a `Command` of its own and a `run`; it is made known in `__main__`.
"""
