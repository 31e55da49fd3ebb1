"""The embedded pictures: emoji drawn in nine open-licensed styles (`data/README.md`).

Shapes: N pictures, P poses, H = W pixels of a square picture.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import resvg_py
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.errors import report_all
from pipeline.core.hashes import value_hash
from pipeline.data.config import EmojiConfig
from pipeline.data.datasets.conditions import CONDITIONS, apply_conditions
from pipeline.data.manifest import SPLITS, Manifest

BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "grey": (150, 150, 150),
    "red": (225, 120, 110),
    "orange": (245, 180, 110),
    "yellow": (250, 235, 150),
    "green": (150, 205, 150),
    "teal": (130, 205, 200),
    "blue": (140, 175, 235),
    "purple": (185, 150, 220),
    "pink": (245, 185, 210),
    "brown": (175, 140, 110),
}
"""Named backgrounds, sRGB; half of all pictures stand on white."""


@dataclass(frozen=True)
class Poses:
    """How drawings are placed on a picture: one entry per pose.

    Attributes:
        scale_P: side of the drawing relative to the picture.
        angle_P: rotation in radians, counter-clockwise.
        shift_P2: displacement of the centre, as a fraction of half the picture (x, y).
        background_P: index into `BACKGROUNDS`.
    """

    scale_P: Tensor
    angle_P: Tensor
    shift_P2: Tensor
    background_P: Tensor

    def __len__(self) -> int:
        """Return P."""
        return len(self.scale_P)

    def __getitem__(self, index: Tensor) -> Poses:
        """Return the poses at some positions."""
        return Poses(
            self.scale_P[index], self.angle_P[index], self.shift_P2[index], self.background_P[index]
        )


def random_poses(count: int, generator: torch.Generator) -> Poses:
    """Draw poses: scale 0.75-1.08, rotation up to 12 degrees, small shifts, half on white."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    scale_P = uniform(0.75, 1.08, count)
    room_P1 = (1.12 - scale_P).clamp(min=0.04)[:, None]
    coloured_P = torch.randint(1, len(BACKGROUNDS), (count,), generator=generator)
    on_white_P = torch.rand(count, generator=generator) < 0.5
    return Poses(
        scale_P=scale_P,
        angle_P=uniform(-12.0, 12.0, count).deg2rad(),
        shift_P2=uniform(-1.0, 1.0, count, 2) * room_P1,
        background_P=torch.where(on_white_P, 0, coloured_P),
    )


def read_drawings(path: Path) -> pd.DataFrame:
    """Read the drawings: style, license, codepoint, name, group, subgroup, tags, svg.

    Raises:
        ValueError: if the file is missing or is not such a table.
    """
    columns = ["style", "codepoint", "name", "group", "tags", "svg"]
    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: not a readable table of drawings with columns {columns}: {error}"
        ) from None


def render_drawing(svg: str, size: int) -> np.ndarray:
    """Rasterise one SVG into premultiplied RGBA, `[4, size, size]` uint8, padded to a square."""
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    if image.size != (size, size):
        image.thumbnail((size, size), Image.Resampling.BICUBIC)
        square = Image.new("RGBA", (size, size))
        square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        image = square
    return np.asarray(image.convert("RGBa")).transpose(2, 0, 1).copy()


def render_drawings(svgs: list[str], size: int) -> Tensor:
    """Rasterise drawings on all cores, `[N, 4, size, size]`; see `render_drawing`."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        pictures = list(pool.map(partial(render_drawing, size=size), svgs, chunksize=64))
    return torch.from_numpy(np.stack(pictures))


def place_drawings(drawings_N4HW: Tensor, poses: Poses) -> Tensor:
    """Place each drawing in its pose on its background.

    Args:
        drawings_N4HW: premultiplied RGBA, uint8.
        poses: N poses, one per drawing.

    Returns:
        `[N, 3, H, W]` float32 RGB in [0, 255].
    """
    cos_P, sin_P = poses.angle_P.cos() / poses.scale_P, poses.angle_P.sin() / poses.scale_P
    linear_P22 = torch.stack([cos_P, -sin_P, sin_P, cos_P], dim=-1).view(-1, 2, 2)
    offset_P21 = -linear_P22 @ poses.shift_P2[..., None]
    affine_P23 = torch.cat([linear_P22, offset_P21], dim=-1)
    grid = F.affine_grid(affine_P23, list(drawings_N4HW.shape), align_corners=False)
    placed = F.grid_sample(drawings_N4HW.float(), grid, mode="bilinear", align_corners=False)
    colours = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32)
    background = colours[poses.background_P][:, :, None, None]
    return placed[:, :3] + background * (1 - placed[:, 3:] / 255)


def encode_png(image_3HW: Tensor) -> bytes:
    """Encode one RGB picture, float or uint8 in [0, 255], as PNG."""
    pixels = image_3HW.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def read_tasks(
    path: Path, config: EmojiConfig, tasks: Sequence[str] | None = None
) -> dict[str, pd.DataFrame]:
    """Return the drawings of some tasks, each with its label; of all tasks without `tasks`.

    Classes are the concepts of the task's group that every style of the config draws, in code
    point order; so the first half of them can serve as base classes. A group with more than
    `max_classes` gives every k-th concept, with the smallest k that suffices.

    Raises:
        ValueError: if a task, a group, a condition or a style does not exist.
    """
    drawings = read_drawings(path)
    styles = [*config.shot_styles, *config.held_out_styles]
    tasks = list(config.tasks) if tasks is None else tasks
    described = [config.tasks[task] for task in tasks if task in config.tasks]
    groups = [task.group for task in described]
    conditions = [condition for task in described for condition in task.conditions]
    known = {column: set(drawings[column]) for column in ("group", "style")}
    problems = [
        f"{key} {unknown}: got unknown names; expected some of {sorted(allowed)}"
        for key, wanted, allowed in (
            ("tasks", tasks, set(config.tasks)),
            ("prepare.emoji.tasks: groups", groups, known["group"]),
            ("prepare.emoji.tasks: conditions", conditions, set(CONDITIONS)),
            ("prepare.emoji styles", styles, known["style"]),
        )
        if (unknown := sorted(set(wanted) - allowed))
    ]
    report_all("params.yaml: not among the drawings", problems)
    drawings = drawings[drawings["style"].isin(styles)]
    found = {}
    for task in tasks:
        rows = drawings[drawings["group"] == config.tasks[task].group]
        complete = rows.groupby("codepoint")["style"].nunique() == len(set(styles))
        concepts = sorted(complete.index[complete])
        concepts = concepts[:: max(1, math.ceil(len(concepts) / config.max_classes))]
        rows = rows[rows["codepoint"].isin(concepts)]
        label_of = {concept: label for label, concept in enumerate(concepts)}
        found[task] = rows.assign(label=rows["codepoint"].map(label_of)).sort_values(
            ["label", "style"], ignore_index=True
        )
    return found


def find(path: Path, config: EmojiConfig, tasks: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of every task's drawings.

    Raises:
        ValueError: if a task or a style does not exist.
    """
    return {
        task: value_hash([rows[key].tolist() for key in ("style", "codepoint", "name", "svg")])
        for task, rows in read_tasks(path, config, tasks).items()
    }


def build_manifest(task: str, drawings: pd.DataFrame, config: EmojiConfig) -> Manifest:
    """Rasterise a task: every drawing in the fixed poses of the splits that its style serves.

    All pictures are shown under the task's conditions.
    """
    about = config.tasks[task]
    drawings_N4HW = torch.from_numpy(
        np.stack([render_drawing(svg, config.image_size) for svg in drawings["svg"]])
    )
    held_out = drawings["style"].isin(config.held_out_styles).to_numpy()
    rows: list[dict[str, Any]] = []
    for split, count in config.poses.items():
        generator = torch.Generator().manual_seed(config.seed * 10 + SPLITS.index(split))
        poses = random_poses(count, generator)
        serving = np.flatnonzero(~held_out if split != "test" else np.ones_like(held_out))
        for pose in range(count):
            same = poses[torch.full((len(serving),), pose)]
            pictures_N3HW = apply_conditions(
                place_drawings(drawings_N4HW[serving], same), about.conditions
            )
            with ThreadPoolExecutor() as pool:
                encoded = list(pool.map(encode_png, pictures_N3HW))
            for index, png in zip(serving, encoded, strict=True):
                drawing = drawings.iloc[index]
                name = f"{task}/{drawing['codepoint']}-{drawing['style']}-{split}-{pose}.png"
                image = {"bytes": png, "path": name}
                rows.append(
                    {
                        "image": image,
                        "label": drawing["label"],
                        "class_name": drawing["name"],
                        "domain": drawing["style"],
                        "split": split,
                    }
                )
    notes = {"source": "emoji", "conditions": about.conditions}
    return Manifest(task, about.template, pd.DataFrame(rows), notes=notes)
