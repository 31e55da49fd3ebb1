"""Predict what the pictures of a folder show. No stage of DVC.

    python -m stages.predict FOLDER --out predictions.csv
    python -m stages.predict FOLDER --out predictions.parquet --task objects --classes "cat,dog"
    python -m stages.predict FOLDER --out predictions.csv --prompt FILE.prompt

Without --model or --prompt the champion of params.yaml's registered model answers.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline.clip.backbone import load_backbone
from pipeline.core import paths
from pipeline.core.errors import run_stage
from pipeline.core.files import write_atomic
from pipeline.params import load_params
from pipeline.prompts.file import load_prompt
from pipeline.registry.registry import load_predictor
from pipeline.serving.batch import (
    check_all_read,
    check_out,
    find_pictures,
    predict_files,
    write_rows,
)
from pipeline.serving.predictor import CANDIDATES, Predictor, load_prompts
from pipeline.tracking.tracker import Tracker

LISTED = 20


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="with pictures, at any depth")
    add("--out", type=Path, required=True, metavar="FILE", help=".csv or .parquet")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", metavar="URI", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    source.add_argument("--prompt", type=Path, metavar="FILE", help="for the towers of params.yaml")
    add("--task", help="whose prompt is used; default: the model's first")
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--classes", metavar="A,B,C", help="names to choose from; default: the task's"
    )
    names.add_argument(
        "--classes-file", type=Path, metavar="FILE", help="the same, a name per line"
    )
    names.add_argument("--candidates", choices=CANDIDATES, default="all", help="of the task's own")
    add("--strict", action="store_true", help="a picture that cannot be read is an error")
    add("--chunk", type=positive, default=64, help="pictures that are encoded together")
    add("--workers", type=positive, help="threads that decode; default: one per core")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    """Read a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed are 1, 2, ...")
    return int(text)


def chosen_classes(options: argparse.Namespace) -> list[str]:
    """Return the names that were asked for, or none.

    Raises:
        ValueError: if the file cannot be read, or names nothing.
    """
    if options.classes is None and options.classes_file is None:
        return []
    try:
        text = options.classes_file.read_text("utf-8") if options.classes_file else options.classes
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--classes-file {options.classes_file}: {error}") from None
    parts = text.splitlines() if options.classes_file else text.split(",")
    found = [part.strip() for part in parts if part.strip()]
    if not found:
        raise ValueError("--classes: found no name; allowed is at least one")
    return found


def load(options: argparse.Namespace) -> Predictor:
    """Return the prompts that were asked for.

    Raises:
        ValueError: if they are not there, damaged, or of another backbone.
    """
    params = load_params()
    if options.prompt:
        _, about = load_prompt(options.prompt)
        task = about.get("task") if isinstance(about, dict) else None
        backbone = load_backbone(params.backbone)
        return load_prompts({str(task or options.prompt.stem): options.prompt}, backbone)
    Tracker(params.tracking, paths.STATE)  # says where the registry is
    return load_predictor(options.model or f"models:/{params.register_.name}@champion")


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict, and list what could not be read.

    Raises:
        ValueError: on bad input; with --strict also if a picture cannot be read, which is told
            after all were tried, and then nothing is written.
    """
    options = parse(arguments)
    check_out(options.out)
    classes = chosen_classes(options)
    paths = find_pictures(options.folder)
    predictor = load(options)
    task, names = predictor.choose(options.task, options.candidates, classes)
    problems: list[str] = []
    with tqdm(total=len(paths), desc="predict", unit="picture") as bar:

        def write(path: Path) -> None:
            frames = predict_files(predictor, paths, task, names, options.chunk, options.workers)
            problems.extend(write_rows(path, options.out.suffix, frames, bar.update))
            if options.strict:
                check_all_read(problems, len(paths))

        try:
            write_atomic(options.out, write)
        except OSError as error:
            raise ValueError(f"--out {options.out}: cannot be written: {error.strerror}") from None
    print(f"{options.out}: {len(paths) - len(problems)} pictures, {len(names)} classes of {task}")
    if problems:
        more = [f"and {len(problems) - LISTED} more, in {options.out}"] * (len(problems) > LISTED)
        lines = [f"{len(problems)} picture(s) cannot be read:", *problems[:LISTED], *more]
        print("\n  - ".join(lines), file=sys.stderr)


if __name__ == "__main__":
    run_stage(main)
