"""Measurements that take long: one at a time into a JSON file, each kept as soon as it is done."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from pipeline.core.files import save_json

T = TypeVar("T")
Results = dict[str, Any]


def load_results(path: Path) -> Results:
    """Return what was measured so far, by key."""
    return json.loads(path.read_text()) if path.exists() else {}


def measured(measure: Callable[[T], Results], item: tuple[str, T]) -> tuple[str, Results]:
    """Measure one unit on one thread."""
    torch.set_num_threads(1)
    return item[0], measure(item[1])


def measure_missing(
    path: Path, units: Mapping[str, T], measure: Callable[[T], Results], workers: int
) -> Results:
    """Measure the units that the file lacks, in order, and return all results.

    Args:
        path: the JSON file, an object by key.
        units: what to measure, by key.
        measure: turns a unit into its results, in a process of its own.
        workers: how many at once.
    """
    missing = [item for item in units.items() if item[0] not in load_results(path)]
    if not missing:
        return load_results(path)
    with (
        get_context("spawn").Pool(workers) as pool,
        tqdm(total=len(missing), desc=path.stem, unit="unit") as bar,
    ):
        for key, result in pool.imap_unordered(partial(measured, measure), missing):
            save_json(path, {**load_results(path), key: result})
            bar.update()
    return load_results(path)


def parser(description: str) -> argparse.ArgumentParser:
    """Return the options that all of these commands have."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--workers", type=int, default=os.cpu_count())
    options.add_argument("--report", action="store_true", help="write the docs, measure nothing")
    return options
