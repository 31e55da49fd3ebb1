"""One short script per DVC stage: load, call, save."""
