"""Bring prompts from CoOp's code, and take them to it or to any CLIP code. No stage of DVC.

    python -m stages.exchange import-coop CHECKPOINT --out FILE.prompt
    python -m stages.exchange export-coop FILE.prompt --out CHECKPOINT
    python -m stages.exchange export-embeddings FILE.prompt [--classes a,b,c] --out FILE.safetensors

The backbone is that of params.yaml.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.clip.backbone import Backbone, load_backbone
from pipeline.core.errors import run_stage
from pipeline.core.files import write_atomic
from pipeline.params import Params, load_params
from pipeline.prompts.file import load_prompt, packed_size, save_prompt
from pipeline.serving.interop import check_class_names, load_coop, save_coop, save_embeddings

Command = Callable[[argparse.Namespace, Params, Backbone], None]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.exchange", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, source, run, text in (
        ("import-coop", "CHECKPOINT", import_coop, "a checkpoint of CoOp becomes a prompt"),
        ("export-coop", "PROMPT", export_coop, "a prompt becomes a checkpoint of CoOp"),
        ("export-embeddings", "PROMPT", export_embeddings, "a prompt becomes class embeddings"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("source", type=Path, metavar=source)
        command.add_argument("--out", type=Path, required=True, metavar="FILE")
        command.set_defaults(run=run, classes=None)
    command.add_argument("--classes", metavar="A,B,C", help="default: those it was learned with")
    return parser.parse_args(arguments)


def import_coop(options: argparse.Namespace, params: Params, backbone: Backbone) -> None:
    """Write the context of a checkpoint as a prompt."""
    prompt = load_coop(options.source, backbone.text, params.prompt.init)
    about = {
        "method": "coop",
        "source": options.source.name,
        "backbone": params.backbone.model_dump(),
    }
    write(
        options.out,
        partial(save_prompt, prompt=prompt, fingerprint=backbone.fingerprint, about=about),
    )
    size = packed_size(options.out.read_bytes())
    print(f"{options.out}: {size.payload_bytes} B of prompt, {size.header_bytes} B of header")


def export_coop(options: argparse.Namespace, params: Params, backbone: Backbone) -> None:  # noqa: ARG001 (all commands take the same)
    """Write a prompt as a checkpoint."""
    prompt, _ = load_prompt(options.source, backbone.fingerprint)
    text = backbone.text_side(prompt.init, [])
    write(options.out, partial(save_coop, prompt=prompt, text=text))
    print(f"{options.out}: ctx [{prompt.n_ctx}, {backbone.text.width}]")


def export_embeddings(options: argparse.Namespace, params: Params, backbone: Backbone) -> None:  # noqa: ARG001 (all commands take the same)
    """Write a prompt's class embeddings."""
    prompt, about = load_prompt(options.source, backbone.fingerprint)
    names = check_class_names(chosen_classes(options, about))
    text = backbone.text_side(prompt.init, names)
    save = partial(
        save_embeddings,
        prompt=prompt,
        text=text,
        class_names=names,
        fingerprint=backbone.fingerprint,
    )
    write(options.out, save)
    print(f"{options.out}: {len(names)} classes")


def chosen_classes(options: argparse.Namespace, about: Any) -> list[object]:
    """Return the class names that were asked for, or that the prompt was learned with.

    Raises:
        ValueError: if there are neither.
    """
    if options.classes is not None:
        return [name.strip() for name in options.classes.split(",")]
    names = about.get("class_names") if isinstance(about, dict) else None
    if not isinstance(names, list):
        raise ValueError(f"{options.source}: names no classes; give them with --classes a,b,c")
    return names


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file, complete or not at all.

    Raises:
        ValueError: if it cannot be written.
    """
    try:
        write_atomic(path, save)
    except OSError as error:
        raise ValueError(f"--out {path}: cannot be written: {error.strerror}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    options = parse(arguments)
    params = load_params()
    run: Command = options.run
    run(options, params, load_backbone(params.backbone.on_cpu()))


if __name__ == "__main__":
    run_stage(main)
