"""Nearest-neighbour tables of images, by FAISS."""
