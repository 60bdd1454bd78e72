"""Label propagation benchmarks on frozen features: `python -m evaluation TASK --data DIR --weights FILE --out DIR`.

frames, labels   images and masks from disk; index masks <-> soft labels on the patch grid
backbones        weights of several origins -> patch features of a batch of frames
propagation      features of a clip + labels of its first frame -> labels of every frame
task, masks      what a benchmark says of itself; what those of index masks share
davis, vip, jhmdb    the benchmarks: layout, protocol, scores; the measures alone in *_scores
evaluate         a task's clips through network, propagation and scoring, with threads for the rest (background)
program          the programs: one or several checkpoints, or predictions on disk -> result files
report, sheets   report.html and contact sheets (pictures, attention)
during_training  DAVIS on the teacher while it is trained, and the best weights

A result is a pure function of data, weights and the protocol that its file records.
"""

from pipeline import startup as startup  # before anything that takes time to import
