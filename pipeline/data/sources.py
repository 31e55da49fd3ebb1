"""All sources of data, behind one interface.

Every source has two functions: `find` checks that the data of all tasks are present and returns a
hash for each, `build` returns one task's manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.core import paths
from pipeline.data.config import PrepareConfig
from pipeline.data.datasets import coop, emoji, folder, table
from pipeline.data.manifest import Manifest

OWN: dict[str, Any] = {"coop": coop, "folder": folder, "table": table}


@contextmanager
def naming_the_path() -> Iterator[None]:
    """Turn an error of the file system into one sentence with the path.

    Raises:
        ValueError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None


@naming_the_path()
def find_sources(config: PrepareConfig, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Find the data of all tasks; return what identifies each task's data.

    Raises:
        ValueError: one message with all that is missing, for all tasks.
    """
    if config.source == "emoji":
        found = emoji.find(paths.DRAWINGS, config.emoji, tasks)
    else:
        found = OWN[config.source].find(getattr(config, config.source), tasks)
    return {task: {"source": config.source, "hash": found[task]} for task in tasks}


@naming_the_path()
def build_source(config: PrepareConfig, task: str) -> Manifest:
    """Build the manifest of a task.

    Raises:
        ValueError: if its data are not what the source expects.
    """
    if config.source == "emoji":
        drawings = emoji.read_tasks(paths.DRAWINGS, config.emoji, [task])[task]
        return emoji.build_manifest(task, drawings, config.emoji)
    manifest: Manifest = OWN[config.source].build(getattr(config, config.source), task)
    return manifest
