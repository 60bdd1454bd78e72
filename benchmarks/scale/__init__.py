"""`make scale`: what the whole flow costs at the size of Kinetics and ImageNet, computed from measured figures.

`figures` are measured, `options` are assumed, `stages` and `limits` are arithmetic on both, `page` writes it down.
"""
