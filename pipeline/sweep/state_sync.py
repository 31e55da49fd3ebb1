"""State that two machines write in turn: each side takes over what changed on the other.

Sides are compared by content with what both had at the last handover, never by clocks.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from pipeline.core.errors import report_all
from pipeline.core.files import load_json, save_json, write_atomic
from pipeline.core.hashes import file_hash


def take_over(theirs: Path, ours: Path, known: Path) -> None:
    """Copy to `ours` each file that only `theirs` changed since the last handover.

    With t, o, k the contents there, here and at the last handover: t is copied if o = k or o is
    missing; o stays if t = k; t = o needs nothing. Files that exist only here stay.

    Args:
        theirs: a copy of the other side's folder.
        ours: the folder of this side.
        known: a file with the hashes of the last handover; missing if there was none.

    Raises:
        ValueError: if both sides changed a file; then nothing is copied.
    """
    before: dict[str, str] = load_json(known) if known.exists() else {}
    there = hashes(theirs)
    here = {name: file_hash(ours / name) for name in there if (ours / name).is_file()}
    differ = [name for name in there if there[name] != here.get(name)]
    taken = [name for name in differ if here.get(name) in (None, before.get(name))]
    both = [name for name in differ if name not in taken and there[name] != before.get(name)]
    report_all(
        "changed here and on the cluster since the last handover; delete one of each pair (the "
        "cluster's file is in ~/loqua/artifacts/state)",
        [f"{ours / name} and {theirs / name}" for name in both],
    )
    for name in taken:
        write_atomic(ours / name, partial(shutil.copy2, theirs / name))
    save_json(known, before | there)


def record(ours: Path, known: Path) -> None:
    """Record that the other side just received all of `ours`."""
    save_json(known, hashes(ours))


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): file_hash(path) for path in paths}
