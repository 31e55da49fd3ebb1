"""How every `loqua` command runs: in the project's folder, and with the errors of a stage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from pipeline.core.stage import run_stage


class Command(TyperCommand):
    """A command whose errors are one line on stderr; its exit status is that of a stage.

    0: done. 1: an error that the user can fix. 2: wrong usage (Typer's own). 128 + n: ended by
    signal n, so 130 after Ctrl-C.
    """

    def invoke(self, ctx: Any) -> None:
        """Run the command."""
        run_stage(partial(self._run, ctx))

    def _run(self, ctx: Any) -> None:
        check_project(Path.cwd())
        super().invoke(ctx)


def check_project(folder: Path) -> None:
    """Refuse a folder that holds no project.

    Raises:
        ValueError: naming the project's folder if it is above.
    """
    if (folder / "params.yaml").is_file():
        return
    above = next((at for at in folder.parents if (at / "params.yaml").is_file()), None)
    where = f"the folder {above}" if above else "the folder of a Loqua project"
    raise ValueError(f"{folder}: no params.yaml in this folder; run `loqua` in {where}")


def exclude(**options: object) -> None:
    """Refuse options that exclude each other.

    Raises:
        typer.BadParameter: if more than one has a value.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other")


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write the file of --out, complete or not at all.

    Raises:
        ValueError: if it cannot be written.
    """
    from pipeline.core.files import write_atomic

    try:
        write_atomic(path, save)
    except OSError as error:
        raise ValueError(f"--out {path}: cannot be written: {error.strerror}") from None
