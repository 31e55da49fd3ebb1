"""`loqua predict`: classify the pictures of a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from pipeline.cli.command import exclude, write

if TYPE_CHECKING:
    from pipeline.serving.predictor import Predictor

LISTED = 20
Names = Literal["all", "base", "new"]


def predict(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="Pictures, at any depth.")],
    out: Annotated[Path, Option(metavar="FILE", help="Table to write: .csv or .parquet.")],
    model: Annotated[
        str | None, Option(metavar="models:/NAME@ALIAS", show_default="the champion")
    ] = None,
    prompt: Annotated[Path | None, Option(metavar="FILE", help="A prompt file instead.")] = None,
    task: Annotated[str | None, Option(help="Whose prompt.", show_default="the first")] = None,
    classes: Annotated[
        str | None, Option(metavar="A,B,C", help="Names to choose from.", show_default="the task's")
    ] = None,
    classes_file: Annotated[
        Path | None, Option(metavar="FILE", help="The same, one name per line.")
    ] = None,
    candidates: Annotated[Names, Option(help="Which of the task's own names.")] = "all",
    strict: Annotated[bool, Option("--strict", help="Fail if a picture is unreadable.")] = False,
    chunk: Annotated[int, Option(min=1, help="Pictures to encode together.")] = 64,
    workers: Annotated[int | None, Option(min=1, show_default="one thread per core")] = None,
) -> None:
    """Classify the pictures of a folder with a registered model or a prompt file.

    A picture that cannot be read gets a row with the reason, and is listed at the end.
    """
    exclude(model=model, prompt=prompt)
    exclude(classes=classes, classes_file=classes_file)
    from tqdm import tqdm

    from pipeline.serving import batch

    batch.check_out(out)
    asked = class_names(classes, classes_file)
    paths = batch.find_pictures(folder)
    predictor = load(model, prompt)
    task, names = predictor.choose(task, candidates, asked)
    problems: list[str] = []
    with tqdm(total=len(paths), desc="predict", unit="picture") as bar:

        def save(path: Path) -> None:
            rows = batch.predict_files(predictor, paths, task, names, chunk, workers)
            problems.extend(batch.write_rows(path, out.suffix, rows, bar.update))
            if strict:
                batch.check_all_read(problems, len(paths))

        write(out, save)
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


def load(model: str | None, prompt: Path | None) -> Predictor:
    """Return the predictor of a prompt file or a registered model; of neither, the champion.

    Raises:
        ValueError: if it is missing, damaged, or of another backbone.
    """
    from pipeline.core import paths
    from pipeline.params import load_params

    params = load_params()
    if prompt is None:
        from pipeline.registry.registry import load_predictor
        from pipeline.tracking.tracker import Tracker

        Tracker(params.tracking, paths.STATE)  # sets the registry's address
        return load_predictor(model or f"models:/{params.register_.name}@champion")
    from pipeline.clip.backbone import load_backbone
    from pipeline.prompts.file import load_prompt
    from pipeline.serving.predictor import load_prompts

    _, about = load_prompt(prompt)
    task = about.get("task") if isinstance(about, dict) else None
    return load_prompts({str(task or prompt.stem): prompt}, load_backbone(params.backbone))
