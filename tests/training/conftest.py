"""What the tests of training share."""

import pytest


@pytest.fixture
def emulated_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in bfloat16 where it is asked for, on processors without its instructions, too."""
    monkeypatch.setattr("pipeline.training.fit.usable_precision", lambda wanted, _: wanted)
