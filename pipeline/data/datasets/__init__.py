"""One small file per source of pictures."""
