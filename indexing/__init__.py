"""Nearest-neighbour tables of images, by FAISS."""

from pipeline import startup as startup  # before anything that takes time to import
