"""Predictions for many picture files: a chunk at a time, straight into a CSV or Parquet file.

Shapes: H = W pixels.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from pyarrow import parquet
from torch import Tensor

from pipeline.core.errors import report_all
from pipeline.data.decode import read_picture
from pipeline.serving.predictor import Predictor

Row = dict[str, Any]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LISTS = ("top_classes", "top_probabilities")
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
        raise ValueError(f"{folder}: not a folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise ValueError(f"{folder}: no picture in it; expected files named {', '.join(SUFFIXES)}")
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
        rows: list[Row] = [{"path": printable(path)} for path in files]
        good = [(row, one) for row, one in zip(rows, found, strict=True) if isinstance(one, Tensor)]
        for row, one in zip(rows, found, strict=True):
            row["error"] = one if isinstance(one, str) else None
        if good:
            image_NE = predictor.encode(torch.stack([one for _, one in good]), task)
            columns = predictor.answer(image_NE, task, names)
            for place, (row, _) in enumerate(good):
                row |= {name: values[place] for name, values in columns.items()}
        yield rows


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


def printable(path: Path) -> str:
    """Return a path as text that every file takes, whatever bytes its name has."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def check_out(path: Path) -> None:
    """Refuse a file name that says no format.

    Raises:
        ValueError: naming those that are allowed.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--out {path}: got {path.suffix!r}; expected .csv or .parquet")


def write_rows(
    path: Path, suffix: str, chunks: Iterable[list[Row]], progress: Callable[[int], Any]
) -> list[str]:
    """Write rows as they come; return `path: reason` of every picture that was not read.

    Args:
        path: of the file.
        suffix: .csv or .parquet, which gets a row group for each chunk.
        chunks: rows of `SCHEMA`.
        progress: called with the number of rows that were written.
    """
    problems: list[str] = []
    with ExitStack() as stack:
        if suffix == ".parquet":
            writer = stack.enter_context(parquet.ParquetWriter(path, SCHEMA))
        else:
            file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
            file.write(",".join(SCHEMA.names) + "\n")
        for rows in chunks:
            problems += [f"{row['path']}: {row['error']}" for row in rows if row["error"]]
            if suffix == ".parquet":
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            else:
                table = pd.DataFrame(rows, columns=SCHEMA.names)
                for name in LISTS:
                    table[name] = table[name].map(as_json, na_action="ignore")
                table.to_csv(file, header=False, index=False, lineterminator="\n")
            progress(len(rows))
    return problems


def as_json(value: object) -> str:
    """Return JSON that people can read."""
    return json.dumps(value, ensure_ascii=False)


def check_all_read(problems: list[str], n_files: int) -> None:
    """Refuse pictures that were not read.

    Raises:
        ValueError: naming them.
    """
    report_all(f"{len(problems)} of {n_files} picture(s) cannot be read", problems, 1000)
