"""`python -m pipeline.cli` is `loqua` with the code of the current folder."""

from pipeline.cli.app import main

main()
