"""SHA-256 of files, bytes and values."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_hash(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def value_hash(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of keys."""
    return bytes_hash(json.dumps(value, sort_keys=True).encode())
