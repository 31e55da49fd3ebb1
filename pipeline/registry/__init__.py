"""Registered models: versions, aliases, cards."""
