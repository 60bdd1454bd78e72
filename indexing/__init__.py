"""Nearest-neighbour tables of images, by FAISS."""

from pipeline import startup as startup  # before slow imports
