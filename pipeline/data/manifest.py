"""The contract of a data set: one Parquet table per task.

| column | type | meaning |
|---|---|---|
| image | struct<bytes, path> | an encoded picture, or the path of one (as Hugging Face does) |
| label | int64 | 0 to K - 1 |
| class_name | string | the name that the prompt is followed by; one per label |
| domain | string | where the picture comes from, for instance a drawing style |
| split | string | train, val or test |

A path is relative to the root of the data's source, so that a manifest does not depend on where the
data are. The table's metadata holds the task's name, its zero-shot template, its splits, and notes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.errors import report_all
from pipeline.data.classes import split_base_new
from pipeline.data.sampling import Draws

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        ("image", IMAGE),
        ("label", pa.int64()),
        ("class_name", pa.string()),
        ("domain", pa.string()),
        ("split", pa.string()),
    ]
)
TEST_ONLY = ("test",)
SPLITS = ("train", "val", "test")
ONE_DOMAIN = "all"
"""The domain of every image of data without domains."""


@dataclass(frozen=True)
class Summary:
    """A manifest for people, and for programs without Parquet.

    Attributes:
        name, template: of the task.
        test_only: whether it is a target of transfer and nothing else.
        comparable: False where published numbers of the same name are of other images.
        classes: how many.
        images: how many, by split.
        notes: its origin.
        split: `Manifest.split_lists` if splits were made here, else empty.
    """

    name: str
    template: str
    test_only: bool
    comparable: bool
    classes: int
    images: dict[str, int]
    notes: dict[str, Any]
    split: dict[str, list[list[Any]]]


@dataclass(frozen=True)
class Manifest:
    """The images of a task, with columns image, label, class_name, domain and split.

    Attributes:
        name: of the task.
        template: the zero-shot caption.
        rows: one per image.
        splits: those that it has. Without `val`, a sweep validates on training images that it
            does not train on; `TEST_ONLY` is a target of transfer from another task.
        notes: its origin, a JSON object; `comparable: false` where published numbers of the same
            name were measured on other images, with the `reason`.
    """

    name: str
    template: str
    rows: pd.DataFrame
    splits: tuple[str, ...] = SPLITS
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        """Class names in label order."""
        names = self.rows.drop_duplicates("label").sort_values("label")
        return [str(name) for name in names["class_name"]]

    @property
    def counts(self) -> dict[str, int]:
        """How many images each of its splits has."""
        counts = self.rows["split"].value_counts()
        return {split: int(counts.get(split, 0)) for split in self.splits}

    @property
    def summary(self) -> Summary:
        """What is known about it without its rows."""
        return Summary(
            name=self.name,
            template=self.template,
            test_only=self.splits == TEST_ONLY,
            comparable=self.notes.get("comparable", True),
            classes=len(self.class_names),
            images=self.counts,
            notes=self.notes,
            split=self.split_lists if self.notes.get("splits_made") else {},
        )

    @property
    def split_lists(self) -> dict[str, list[list[Any]]]:
        """Path, label and class name of every image, by split, as in CoOp's split files."""
        lists: dict[str, list[list[Any]]] = {split: [] for split in self.splits}
        for row in self.rows.to_dict("records"):
            lists[row["split"]].append([row["image"]["path"], row["label"], row["class_name"]])
        return lists

    @property
    def remarks(self) -> list[str]:
        """What the user should know about it, one line each."""
        lines = []
        if not self.notes.get("comparable", True):
            lines.append(f"not comparable with published results: {self.notes['reason']}")
        if self.splits == TEST_ONLY:
            lines.append("test only: a target of transfer")
        if copies := self.notes.get("copies"):
            some = "; ".join(" = ".join(group) for group in copies[:3])
            more = "; ..." if len(copies) > 3 else ""
            lines.append(f"{self.notes['left_out']} identical picture(s) left out: {some}{more}")
        return lines

    @property
    def images(self) -> pa.ChunkedArray:
        """The images as an Arrow array: a million paths take 100 MB, which workers share."""
        images = pa.array(self.rows["image"], type=IMAGE)
        return images if isinstance(images, pa.ChunkedArray) else pa.chunked_array([images])

    def in_split(self, split: str) -> np.ndarray:
        """Return which rows belong to a split, bool."""
        return (self.rows["split"] == split).to_numpy(dtype=bool)

    def chosen_rows(self, draws: Draws | None, without: Collection[int] = ()) -> np.ndarray:
        """Return the rows that are encoded, ascending.

        These are all validation and test images, since all of them are measured, and the training
        images that some draw contains, or all without draws. Rows in `without` are ignored.
        """
        usable = np.ones(len(self.rows), dtype=bool)
        usable[list(without)] = False
        pool_T = np.flatnonzero(self.in_split("train") & usable)
        others = np.flatnonzero(~self.in_split("train") & usable)
        if draws is not None:
            labels = self.rows["label"].to_numpy()[pool_T].tolist()
            pool_T = pool_T[draws.union(labels, has_val="val" in self.splits)]
        return np.sort(np.concatenate([pool_T, others]))

    def n_encodings(self, views: int, draws: Draws | None = None) -> int:
        """Return how many pictures are encoded with `views` crops of each training image."""
        chosen_N = self.chosen_rows(draws)
        return len(chosen_N) + views * int(self.in_split("train")[chosen_N].sum())


def check_manifest(manifest: Manifest, root: Path = Path()) -> None:
    """Refuse a manifest that would fail later, with all its problems in one error.

    Args:
        manifest: as it was built.
        root: where relative paths of images start.

    Raises:
        ValueError: on unexpected splits, labels that are not 0 to K - 1, labels with
            several names, images that do not exist, and, for each split that it should have,
            classes without an image there; of validation images only base classes need any. With
            training images, also on fewer than 3 classes.
    """
    rows, problems = manifest.rows, []
    unknown = sorted(set(rows["split"]) - set(manifest.splits))
    if unknown:
        problems.append(f"got splits {unknown}; expected {list(manifest.splits)}")
    labels = sorted(set(rows["label"]))
    if labels != list(range(len(labels))):
        problems.append(f"got labels {labels[:5]}...; expected all of 0 to {len(labels) - 1}")
    for label, names in rows.groupby("label")["class_name"]:
        if len(set(names)) > 1 or not str(names.iloc[0]).strip():
            problems.append(f"label {label}: got class names {sorted(set(names))}; expected one")
    if len(labels) < 3 and "train" in manifest.splits:
        problems.append(f"got {len(labels)} class(es); expected 3 or more")
    name_of = dict(zip(labels, manifest.class_names, strict=True))
    needed = {"train": labels, "val": split_base_new(labels)[0], "test": labels}
    for split in manifest.splits:
        present = set(rows.loc[rows["split"] == split, "label"])
        problems += [
            f"class {name_of[label]!r} has no {split} image"
            for label in needed[split]
            if label not in present
        ]
    for image in rows["image"]:
        data, path = image["bytes"], image["path"]
        if data is None and not (path and os.path.isfile(root / path)):
            problems.append(f"image {path}: no such file")
        elif data == b"":
            problems.append(f"image {path}: 0 bytes")
    report_all(f"task {manifest.name}: {len(problems)} problem(s)", problems)


def save_manifest(path: Path, manifest: Manifest, root: Path = Path()) -> None:
    """Check a manifest, whose relative paths start at `root`, and write it."""
    check_manifest(manifest, root)
    about = {
        "name": manifest.name,
        "template": manifest.template,
        "splits": list(manifest.splits),
        "notes": manifest.notes,
    }
    schema = SCHEMA.with_metadata({"loqua": json.dumps(about)})
    table = pa.Table.from_pandas(manifest.rows, schema=schema, preserve_index=False)
    pq.write_table(table, path, compression="none")


def load_manifest(path: Path, with_images: bool = True, root: Path = Path()) -> Manifest:
    """Read a manifest; the paths of its images are joined to `root`, so that they can be opened.

    Raises:
        ValueError: if the file is missing, damaged, or not a manifest.
    """
    columns = [name for name in SCHEMA.names if with_images or name != "image"]
    try:
        table = pq.read_table(path, columns=columns)
        about: dict[str, Any] = json.loads((table.schema.metadata or {})[b"loqua"])
        if with_images:
            table = under_root(table, root)
        rows = table.to_pandas(types_mapper={IMAGE: pd.ArrowDtype(IMAGE)}.get)
        splits = tuple(about["splits"])
        return Manifest(about["name"], about["template"], rows, splits, about["notes"])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a readable manifest: {error}") from None


def under_root(table: pa.Table, root: Path) -> pa.Table:
    """Join the paths of a table's images to `root`; an image with bytes keeps its path."""
    place, chunks = table.schema.get_field_index("image"), []
    for images in table.column(place).chunks:
        content, path = images.field("bytes"), images.field("path")
        joined = pc.binary_join_element_wise(pa.scalar(str(root)), path, "/")
        stays = pc.or_(pc.is_valid(content), pc.starts_with(pc.fill_null(path, "/"), "/"))
        opened = path if root == Path() else pc.if_else(stays, path, joined)
        chunks.append(pa.StructArray.from_arrays([content, opened], fields=list(IMAGE)))
    return table.set_column(place, "image", pa.chunked_array(chunks, type=IMAGE))


def build_rows(columns: Sequence[tuple[dict[str, Any], int, str, str, str]]) -> pd.DataFrame:
    """Return the rows of a manifest from (image, label, class name, domain, split)."""
    return pd.DataFrame(columns, columns=SCHEMA.names)
