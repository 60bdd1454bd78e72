"""T-CoRe model, losses and trainer."""

from pipeline import startup as startup  # before anything that takes time to import
