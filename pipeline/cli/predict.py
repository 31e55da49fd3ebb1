"""`loqua predict`: classify the pictures of a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli.command import exclude

if TYPE_CHECKING:
    from pipeline.serving.predictor import Predictor

LISTED = 20


def predict(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of pictures, at any depth.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="models:/NAME@ALIAS or models:/NAME/VERSION.",
            show_default="the champion",
        ),
    ] = None,
    prompt: Annotated[
        Path | None, typer.Option(help="Prompt file, for the backbone of params.yaml.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Task whose prompt to use.", show_default="the model's first")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Names to choose from.", show_default="the task's"),
    ] = None,
    classes_file: Annotated[
        Path | None, typer.Option(help="File of names to choose from, one per line.")
    ] = None,
    candidates: Annotated[
        Literal["all", "base", "new"], typer.Option(help="Which of the task's own names to use.")
    ] = "all",
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail, and write nothing, if any picture cannot be read."),
    ] = False,
    chunk: Annotated[int, typer.Option(min=1, help="Pictures to encode together.")] = 64,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that decode.", show_default="one per core"),
    ] = None,
) -> None:
    """Classify the pictures of a folder.

    A picture that cannot be read gets a row with the reason, and is listed at the end.
    """
    exclude(model=model, prompt=prompt)
    exclude(classes=classes, classes_file=classes_file)
    from tqdm import tqdm

    from pipeline.core.files import write_atomic
    from pipeline.serving import batch

    batch.check_out(out)
    asked = class_names(classes, classes_file)
    paths = batch.find_pictures(folder)
    predictor = load_prompt_file(prompt) if prompt else load_registered(model)
    task, names = predictor.choose(task, candidates, asked)
    problems: list[str] = []
    with tqdm(total=len(paths), desc="predict", unit="picture") as bar:

        def write(path: Path) -> None:
            rows = batch.predict_files(predictor, paths, task, names, chunk, workers)
            problems.extend(batch.write_rows(path, out.suffix, rows, bar.update))
            if strict:
                batch.check_all_read(problems, len(paths))

        try:
            write_atomic(out, write)
        except OSError as error:
            raise ValueError(f"--out {out}: cannot be written: {error.strerror}") from None
    print(f"{out}: {len(paths) - len(problems)} pictures, {len(names)} classes of {task}")
    if problems:
        more = [f"and {len(problems) - LISTED} more, in {out}"] * (len(problems) > LISTED)
        lines = [f"{len(problems)} picture(s) cannot be read:", *problems[:LISTED], *more]
        print("\n  - ".join(lines), file=sys.stderr)


def class_names(listed: str | None, file: Path | None) -> list[str]:
    """Return the names that were asked for, or none.

    Raises:
        ValueError: if the file cannot be read, or there is no name.
    """
    if listed is None and file is None:
        return []
    try:
        parts = file.read_text("utf-8").splitlines() if file else str(listed).split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--classes-file {file}: {error}") from None
    names = [part.strip() for part in parts if part.strip()]
    if not names:
        raise ValueError("--classes: got no name; expected at least one")
    return names


def load_prompt_file(path: Path) -> Predictor:
    """Return a predictor of one prompt file.

    Raises:
        ValueError: if the file is missing, damaged, or of another backbone.
    """
    from pipeline.clip.backbone import load_backbone
    from pipeline.params import load_params
    from pipeline.prompts.file import load_prompt
    from pipeline.serving.predictor import load_prompts

    _, about = load_prompt(path)
    task = about.get("task") if isinstance(about, dict) else None
    return load_prompts({str(task or path.stem): path}, load_backbone(load_params().backbone))


def load_registered(uri: str | None) -> Predictor:
    """Return the predictor of a registered model; None is the champion.

    Raises:
        ValueError: if there is no such model.
    """
    from pipeline.core import paths
    from pipeline.params import load_params
    from pipeline.registry.registry import load_predictor
    from pipeline.tracking.tracker import Tracker

    params = load_params()
    Tracker(params.tracking, paths.STATE)  # sets the registry's address
    return load_predictor(uri or f"models:/{params.register_.name}@champion")
