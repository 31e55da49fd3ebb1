"""Where data come from, and how they become tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.core.config import Config
from pipeline.core.workspace import DataRoot

Template = Annotated[str, Field(pattern=r"^[^{}]*\{\}[^{}]*$")]
"""A caption with {} in the place of the class name."""


class Shares(Config):
    """How much of a class each split gets, where no split is given; they add up to 1."""

    train: float = Field(gt=0, lt=1)
    val: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"got {self.train} + {self.val} + {self.test}; expected a sum of 1")
        return self


class OwnConfig(Config):
    """How own pictures become tasks, in folders or tables."""

    root: DataRoot
    """The folder of the tasks."""
    template: Template
    """The zero-shot caption."""
    shares: Shares
    seed: int = Field(ge=0)
    """Of the splits that are made here."""


class EmojiTask(Config):
    """A task: a group of emoji, shown under conditions of its own."""

    group: str
    conditions: list[str]
    """How its pictures are changed, in this order, each a key of `conditions.CONDITIONS`."""
    template: Template
    """Its own zero-shot caption, written by hand."""


class EmojiConfig(Config):
    """How the embedded drawings become a data set."""

    tasks: dict[str, EmojiTask] = Field(min_length=1)
    max_classes: int = Field(ge=3)
    """A group with more concepts gives every second, third, ... of them."""
    shot_styles: list[str] = Field(min_length=1)
    """Drawing styles of training, validation and test pictures."""
    held_out_styles: list[str]
    """Drawing styles of test pictures only."""
    poses: dict[Literal["train", "val", "test"], Annotated[int, Field(ge=1)]]
    """Fixed poses of each drawing; every split has its own, the same for all classes."""
    image_size: int = Field(ge=16)
    seed: int = Field(ge=0)


class CoopConfig(Config):
    """Where the benchmark's data are."""

    root: DataRoot
    """CoOp's `$DATA`, with one folder per data set."""
    download: bool
    """Whether missing images are downloaded, where torchvision can do it."""
    seed: int = Field(ge=0)
    """Of the splits that are made here where a split file is missing."""


class FolderConfig(OwnConfig):
    """Own pictures in folders: `root` holds one folder per task."""


class Columns(Config):
    """The names of a table's columns."""

    image: str
    class_name: str
    label: str
    split: str
    domain: str


class TableConfig(OwnConfig):
    """Own pictures in tables."""

    columns: Columns
    class_names: dict[str, list[str]]
    """Names in label order, for tasks whose table has bare labels."""


class PrepareConfig(Config):
    """Which source the tasks come from, and the settings of every source."""

    source: Literal["emoji", "coop", "folder", "table"]
    emoji: EmojiConfig
    coop: CoopConfig
    folder: FolderConfig
    table: TableConfig

    @property
    def root(self) -> Path:
        """Where the relative paths of the source's manifests start."""
        return Path(getattr(getattr(self, self.source), "root", ""))
