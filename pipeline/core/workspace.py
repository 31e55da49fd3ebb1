"""Where the project is, also for an experiment that DVC runs in a temporary copy of it.

`dvc exp run --temp` and `dvc queue start` copy what git and DVC track to `.dvc/tmp/exps/`, and
delete the copy at the end. What belongs to the checkout and not to the experiment stays in the
checkout: the study, the tracking database, and the user's pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

COPIES = (".dvc", "tmp", "exps")
"""The folder below a checkout in which DVC makes its copies."""


def checkout(folder: Path | None = None) -> Path:
    """Return the checkout that a folder is a temporary copy of.

    Args:
        folder: the project's folder; the current one if None.

    Returns:
        An absolute path, or `Path()` if the folder is no copy, so that paths in it stay relative.
    """
    folder = (folder or Path.cwd()).resolve()
    parts = folder.parts
    for place in range(len(parts) - len(COPIES), 0, -1):
        if parts[place : place + len(COPIES)] == COPIES:
            copy = next((at for at in (folder, *folder.parents) if (at / ".dvc").is_dir()), folder)
            return Path(*parts[:place]) / folder.relative_to(copy)
    return Path()


def is_copy() -> bool:
    """Return whether the current folder is such a copy."""
    return checkout() != Path()


def in_checkout(path: str) -> str:
    """Return a relative path if it exists here; else, in a copy, the same path in the checkout."""
    return path if Path(path).exists() else str(checkout() / path)


DataRoot = Annotated[str, Field(min_length=1), AfterValidator(in_checkout)]
"""A folder of data that neither git nor DVC tracks."""
