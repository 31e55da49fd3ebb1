"""Fitting prompts, measuring them, and refitting winners."""
