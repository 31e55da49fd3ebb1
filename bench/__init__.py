"""Measurements: what `make bench` and `make schedules` run. Nothing in the pipeline needs them."""
