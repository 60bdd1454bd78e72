"""The Vision Transformer, its weights and foreign weight formats: the part of training that other packages import."""
