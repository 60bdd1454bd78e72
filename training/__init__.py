"""T-CoRe model, losses and trainer."""
