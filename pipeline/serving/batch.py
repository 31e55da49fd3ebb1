"""Predictions for many picture files: a chunk at a time, straight into a CSV or Parquet file.

Shapes: n pictures of a chunk, H = W pixels.
"""

from __future__ import annotations

import csv
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor

from pipeline.core.errors import report_all
from pipeline.data.decode import read_picture
from pipeline.serving.predictor import Predictor

Row = dict[str, Any]
Write = Callable[[list[Row]], Any]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "class_name": pa.string(),
        "probability": pa.float64(),
        "top_classes": pa.list_(pa.string()),
        "top_probabilities": pa.list_(pa.float64()),
        "error": pa.string(),
    }
)
"""A row is a picture: predicted, or with an error that says why not. In CSV, lists are JSON."""


def find_pictures(folder: Path) -> list[Path]:
    """Return the picture files below a folder, by their suffix, sorted.

    Raises:
        ValueError: if it is no folder, or holds none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: found no folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ValueError(f"{folder}: found no picture; allowed are {', '.join(SUFFIXES)}")
    return found


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    task: str,
    names: tuple[str, ...],
    chunk: int = 64,
    workers: int | None = None,
) -> Iterator[list[Row]]:
    """Yield the rows of `SCHEMA` for each chunk of files, in order.

    Threads decode the next chunk while one is encoded; two are in memory.

    Args:
        predictor: the prompts.
        paths: of the files.
        task: whose prompt is used.
        names: to choose from.
        chunk: pictures that are encoded together.
        workers: threads that decode; None is one per core.

    Raises:
        ValueError: if a name is too long.
    """
    predictor.embeddings(task, names)  # refuses names before any file is read
    chunks = [paths[start : start + chunk] for start in range(0, len(paths), chunk)]
    for files, found in load_ahead(predictor, chunks, workers or os.cpu_count() or 1):
        yield predict_chunk(predictor, files, found, task, names)


def load_ahead(
    predictor: Predictor, chunks: Iterable[Sequence[Path]], workers: int
) -> Iterator[tuple[Sequence[Path], list[Tensor | str]]]:
    """Yield each chunk with its pictures `[3, H, W]`, or why there is none; one chunk ahead."""

    def load(path: Path) -> Tensor | str:
        try:
            return predictor.transform(read_picture(path))
        except ValueError as error:
            return str(error)

    waiting: deque[tuple[Sequence[Path], list[Future[Tensor | str]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for files in chunks:
            waiting.append((files, [pool.submit(load, path) for path in files]))
            if len(waiting) > 1:
                ready, futures = waiting.popleft()
                yield ready, [future.result() for future in futures]
        for files, futures in waiting:
            yield files, [future.result() for future in futures]


def predict_chunk(
    predictor: Predictor,
    files: Sequence[Path],
    found: Sequence[Tensor | str],
    task: str,
    names: tuple[str, ...],
) -> list[Row]:
    """Return a row for each file."""
    good = [index for index, one in enumerate(found) if isinstance(one, Tensor)]
    rows: list[Row] = [
        {"path": printable(path), "error": one if isinstance(one, str) else None}
        for path, one in zip(files, found, strict=True)
    ]
    pictures = [one for one in found if isinstance(one, Tensor)]
    if pictures:
        columns = predictor.answer(predictor.encode(torch.stack(pictures), task), task, names)
        for place, index in enumerate(good):
            rows[index] |= {name: values[place] for name, values in columns.items()}
    return rows


def printable(path: Path) -> str:
    """Return a path as text that every file takes, whatever bytes its name has."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def check_out(path: Path) -> None:
    """Refuse a file name that says no format.

    Raises:
        ValueError: naming those that are allowed.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--out {path}: found {path.suffix!r}; allowed are .csv and .parquet")


def write_rows(
    path: Path, suffix: str, chunks: Iterable[list[Row]], progress: Callable[[int], Any]
) -> list[str]:
    """Write rows as they come; return `path: reason` of every picture that was not read.

    Args:
        path: of the file.
        suffix: .csv or .parquet.
        chunks: rows of `SCHEMA`.
        progress: called with the number of rows that were written.
    """
    problems: list[str] = []
    with csv_writer(path) if suffix == ".csv" else parquet_writer(path) as write:
        for rows in chunks:
            problems += [f"{row['path']}: {row['error']}" for row in rows if row["error"]]
            write(rows)
            progress(len(rows))
    return problems


@contextmanager
def csv_writer(path: Path) -> Iterator[Write]:
    """Give what writes rows to a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, SCHEMA.names, lineterminator="\n")
        writer.writeheader()

        def write(rows: list[Row]) -> None:
            for row in rows:
                lists = {
                    k: json.dumps(v, ensure_ascii=False) for k, v in row.items() if type(v) is list
                }
                writer.writerow({**row, **lists})

        yield write


@contextmanager
def parquet_writer(path: Path) -> Iterator[Write]:
    """Give what writes rows to a Parquet file, a row group for each call."""
    with parquet.ParquetWriter(path, SCHEMA) as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


def check_all_read(problems: list[str], n_files: int) -> None:
    """Refuse pictures that were not read.

    Raises:
        ValueError: naming them.
    """
    report_all(f"{len(problems)} of {n_files} picture(s) cannot be read", problems, 1000)
