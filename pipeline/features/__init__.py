"""Image features: encoded once through the frozen image tower and cached."""
