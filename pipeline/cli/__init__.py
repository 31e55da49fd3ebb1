"""The `loqua` command. Its modules load frameworks only when a command runs."""
