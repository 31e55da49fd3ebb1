"""Where data come from: one place that knows all sources, and what `prepare` says of them.

Every source has two functions: `find` looks whether the data of all tasks are there and returns a
hash for each, `build` returns one task's manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.core import paths
from pipeline.data.config import PrepareConfig
from pipeline.data.datasets import coop, emoji, folder, table
from pipeline.data.manifest import Manifest


def find_sources(config: PrepareConfig, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Look where the data of all tasks lie; return what tells a task's data from others.

    Raises:
        ValueError: one message with all that is missing, for all tasks.
    """
    match config.source:
        case "emoji":
            found = emoji.find(paths.DRAWINGS, config.emoji, tasks)
        case "coop":
            found = coop.find(config.coop, tasks)
        case "folder":
            found = folder.find(config.folder, tasks)
        case "table":
            found = table.find(config.table, tasks)
    return {task: {"source": config.source, "hash": found[task]} for task in tasks}


def build_source(config: PrepareConfig, task: str) -> Manifest:
    """Build the manifest of a task.

    Raises:
        ValueError: if its data are not what the source expects.
    """
    match config.source:
        case "emoji":
            drawings = emoji.read_tasks(paths.DRAWINGS, config.emoji, [task])[task]
            return emoji.build_manifest(task, drawings, config.emoji)
        case "coop":
            return coop.build(config.coop, task)
        case "folder":
            return folder.build(config.folder, task)
        case "table":
            return table.build(config.table, task)
