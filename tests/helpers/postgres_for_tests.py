"""PostgreSQL for tests: only where its programs are installed."""

import pytest

from pipeline.tracking.postgres import find_binaries


def need_postgres() -> None:
    """Skip a test, with the reason, where PostgreSQL is not installed."""
    try:
        find_binaries()
    except ValueError as error:
        pytest.skip(str(error))
