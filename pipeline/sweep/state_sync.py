"""State that two machines write in turn: what changed on one side is taken over by the other.

Sides are compared by content against what both had at the last handover, never by clocks.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from pipeline.core.errors import report_all
from pipeline.core.files import load_json, save_json, write_atomic
from pipeline.core.hashes import file_hash


def take_over(theirs: Path, ours: Path, known: Path) -> None:
    """Copy to `ours` each file that changed in `theirs` alone since the last handover.

    With t, o, k the contents there, here and at the last handover: t is taken if o = k or o is
    missing; o stays if t = k; t = o needs nothing. Files that are only here stay.

    Args:
        theirs: a copy of the other side's folder.
        ours: the folder of this side.
        known: a file that remembers hashes of the last handover; missing: there was none.

    Raises:
        ValueError: if both sides changed a file; nothing is copied then.
    """
    before: dict[str, str] = load_json(known) if known.exists() else {}
    after, taken, problems = dict(before), [], []
    for name, there in hashes(theirs).items():
        here = file_hash(ours / name) if (ours / name).is_file() else None
        if here in (None, before.get(name)) and here != there:
            taken.append(name)
        elif there not in (here, before.get(name)):
            problems.append(f"{ours / name} and {theirs / name}")
        after[name] = there
    report_all(
        "changed here and on the cluster since they were last the same; remove the one that may go "
        "(on the cluster: in ~/loqua/artifacts/state)",
        problems,
    )
    for name in taken:
        write_atomic(ours / name, partial(shutil.copy2, theirs / name))
    save_json(known, after)


def remember(ours: Path, known: Path) -> None:
    """Note that the other side was just given all of `ours`."""
    save_json(known, hashes(ours))


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_hash(path) for path in paths}
