"""How files are written and read: complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.core.settings import describe

T = TypeVar("T")


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then move it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.chmod(0o644)  # safetensors makes private files
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_json(path: Path, value: Any) -> None:
    """Write JSON."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text))


def load_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: if the file is missing or damaged.
    """
    return load_record(path, object)


def save_record(path: Path, record: Any) -> None:
    """Write a dataclass as JSON."""
    save_json(path, TypeAdapter(type(record)).dump_python(record, mode="json"))


def load_record(path: Path, kind: type[T]) -> T:
    """Read a dataclass that `save_record` wrote.

    Raises:
        ValueError: if the file is missing, damaged, or of another kind.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        reason = str(error.strerror)
    except ValidationError as error:
        reason = "; ".join(describe(error)[:3])
    raise ValueError(f"{path}: cannot be read ({reason}); `dvc repro` writes it again")


def clear_folder(path: Path) -> Path:
    """Make an empty folder and return it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
