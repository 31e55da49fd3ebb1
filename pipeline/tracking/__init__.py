"""MLflow runs of a sweep, and the tracking server."""
