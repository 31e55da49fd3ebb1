"""The user's own pictures: which are copies of each other, and which split each one is in."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.core.errors import report_all
from pipeline.data.config import OwnConfig, Shares
from pipeline.data.manifest import ONE_DOMAIN, SPLITS, Manifest, build_rows


@dataclass(frozen=True)
class Picture:
    """One of the user's pictures.

    Attributes:
        where: its path or its row, for messages.
        image: `bytes` and `path`, as in a manifest.
        digest: SHA-256 of the encoded picture.
        label: of its class, 0 to K - 1.
        class_name: as the prompt is followed by it.
        split: train, val or test; None if one is yet to be chosen.
        domain: where it comes from.
    """

    where: str
    image: dict[str, Any]
    digest: str
    label: int
    class_name: str
    split: str | None = None
    domain: str = ONE_DOMAIN


def spoken(name: str) -> str:
    """Return a class name as a prompt says it: underscores are spaces, as in CoOp's code."""
    return " ".join(name.replace("_", " ").split())


def build_own(config: OwnConfig, source: str, task: str, pictures: Sequence[Picture]) -> Manifest:
    """Build the manifest of own pictures, in their order, without copies, every one in a split.

    Raises:
        ValueError: on identical pictures of different classes, on splits that are given for some
            pictures or without both train and test, and on classes too small to be split.
    """
    kept, copies = without_copies(task, pictures)
    placed = complete_splits(task, kept, config.shares, config.seed)
    given = {picture.split for picture in pictures}
    notes = {
        "source": source,
        "splits_made": [split for split in SPLITS if split not in given],
        "shares": config.shares.model_dump(),
        "seed": config.seed,
        "left_out": len(pictures) - len(kept),
        "copies": copies,
    }
    rows = [(p.image, p.label, p.class_name, p.domain, str(p.split)) for p in placed]
    return Manifest(task, config.template, build_rows(rows), SPLITS, notes)


def without_copies(task: str, pictures: Sequence[Picture]) -> tuple[list[Picture], list[list[str]]]:
    """Keep one of each group of identical files, so that none is in two splits.

    Kept is the one in test, else the one in val, else the first: a given test split stays whole.

    Returns:
        The pictures that are kept, in their order, and the groups: the kept one, then its copies.

    Raises:
        ValueError: listing every group of identical files with different classes.
    """
    same: dict[str, list[int]] = defaultdict(list)
    for index, picture in enumerate(pictures):
        same[picture.digest].append(index)
    groups = [group for group in same.values() if len(group) > 1]
    clashes = [
        " = ".join(f"{pictures[i].where} ({pictures[i].class_name})" for i in group)
        for group in groups
        if len({pictures[i].label for i in group}) > 1
    ]
    report_all(f"task {task}: identical pictures in different classes; expected one", clashes)
    rank = {"test": 0, "val": 1}
    copies, left_out = [], set()
    for group in groups:
        kept, *others = sorted(group, key=lambda i: (rank.get(pictures[i].split or "", 2), i))
        copies.append([pictures[i].where for i in (kept, *others)])
        left_out |= set(others)
    return [picture for i, picture in enumerate(pictures) if i not in left_out], copies


def complete_splits(
    task: str, pictures: Sequence[Picture], shares: Shares, seed: int
) -> list[Picture]:
    """Put every picture into a split, class by class; given splits stay.

    Without any split all three are made; a missing `val` is taken out of the given `train`.

    Raises:
        ValueError: if only some have a split, train or test is missing, or a class is too small.
    """
    given = {picture.split for picture in pictures}
    if given == set(SPLITS):
        return list(pictures)
    if given not in ({None}, {"train", "test"}):
        got = ", ".join(sorted(split or "none" for split in given))
        raise ValueError(
            f"task {task}: got splits {got}; expected none at all, train and test, or train, val "
            "and test, the same for all pictures"
        )
    by_class: dict[int, list[Picture]] = defaultdict(list)
    for picture in pictures:
        if picture.split in (None, "train"):
            by_class[picture.label].append(picture)
    fewest = 3 if given == {None} else 2
    too_small = [
        f"{own[0].class_name!r}: got {len(own)} different picture(s); expected {fewest} or more"
        for _, own in sorted(by_class.items())
        if len(own) < fewest
    ]
    report_all(f"task {task}: classes too small to be split", too_small)
    split_of: dict[str, str] = {}
    for own in by_class.values():
        # By a hash of seed and content: it depends on neither names, nor the order of files, nor
        # the machine, and a new picture moves few of the others.
        order = sorted(own, key=lambda p: hashlib.sha256(f"{seed} {p.digest}".encode()).digest())
        n_train, n_val = split_counts(len(own), shares, given == {None})
        splits = ["train"] * n_train + ["val"] * n_val + ["test"] * (len(own) - n_train - n_val)
        split_of |= {picture.digest: split for picture, split in zip(order, splits, strict=True)}
    return [
        replace(p, split=split_of[p.digest]) if p.split in (None, "train") else p for p in pictures
    ]


def split_counts(count: int, shares: Shares, with_test: bool = True) -> tuple[int, int]:
    """Return how many of a class's pictures are train and val; the rest, if any, are test.

    train and val are rounded and test is the rest, as where CoOp's code makes a split of its own;
    but every split gets one at least.
    """
    if not with_test:
        share = shares.val / (shares.train + shares.val)
        n_val = min(max(1, round(count * share)), count - 1)
        return count - n_val, n_val
    assert count >= 3, "a class of two cannot be in three splits"
    n_val = min(max(1, round(count * shares.val)), count - 2)
    return min(max(1, round(count * shares.train)), count - n_val - 1), n_val
