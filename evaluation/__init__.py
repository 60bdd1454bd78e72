"""Benchmarks of frozen features: `python -m evaluation TASK --weights FILE --out DIR ...`, mostly by label propagation.

frames, labels, sequences   images and masks from disk; index masks <-> soft labels on the patch grid; lists of names
backbones           weights of several origins -> patch features of a batch of frames
propagation         features of a clip + labels of its first frame -> labels of every frame
benchmark, masks    the parts of a benchmark: data set, scoring, propagation; base classes for index masks
davis, vip, jhmdb, tapvid   the benchmarks; their measures are pure functions in *_scores (tapvid_pickle: its file)
evaluate            clips -> predictions -> scores, with decoding and scoring in threads (background)
command, program    options and result files; the programs that score weights or predictions from disk
report, sheets, tables   report.html, contact sheets, text tables (pictures, cls_attention)
classes, probe      two labeled shard datasets; what the probes of their samples' features have in common
knn, linear         the probes: k-NN classification, a linear classifier
look/               the features of any video, without labels
during_training     scores of the teacher during training, and the best weights (davis_, knn_during_training; ranks)

A result depends only on the data, the weights and the protocol recorded in its file.
"""

from pipeline import startup as startup  # before anything that takes time to import
