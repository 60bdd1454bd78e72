"""What a step draws, in plain NumPy: a pure function of seed, step, batch size, data and settings.

order.py     which samples a step reads       views.py   crop boxes and color parameters
sandwich.py  which frames make a triplet      color.py   color parameters as matrices and blur kernels
masks.py     which patches are masked         philox.py  the random numbers of all of them
plan.py      the plan of a batch, or of one rank's part of it
distance.py  how far apart the frames of a triplet will lie
"""
