"""The frozen text tower and its exact fast paths."""
