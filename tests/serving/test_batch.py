"""Many pictures pass through memory a chunk at a time."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.serving.batch import load_ahead


def test_one_chunk_is_read_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds two chunks, however many files there are."""
    read: list[Path] = []
    monkeypatch.setattr(
        "pipeline.serving.batch.read_picture", lambda path: read.append(path) or path
    )
    toy = SimpleNamespace(transform=str)
    chunks = [[Path(f"{n}-{i}") for i in range(3)] for n in range(10)]
    for taken, (files, found) in enumerate(load_ahead(toy, chunks, 2), start=1):
        assert files == chunks[taken - 1]
        assert found == [str(path) for path in files]
        assert len(read) <= 3 * (taken + 1)
    assert sorted(read) == sorted(path for chunk in chunks for path in chunk)
