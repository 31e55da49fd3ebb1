"""The commands of `loqua`, and how its help groups them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from pipeline.cli import cluster, exchange, tracking
from pipeline.cli.command import Command
from pipeline.cli.predict import predict

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Options that a command does not know go to the program behind it."""
USE, SEE, RUN = "Use a prompt", "See and record runs", "Run on other machines"

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.command(cls=Command, rich_help_panel=USE)(predict)
app.command(cls=Command, rich_help_panel=SEE)(tracking.ui)
app.command(cls=Command, rich_help_panel=SEE, context_settings=PASS_ON)(tracking.server)


def group(name: str, panel: str, text: str) -> typer.Typer:
    """Add a group of commands."""
    made = typer.Typer(no_args_is_help=True, help=text)
    app.add_typer(made, name=name, rich_help_panel=panel)
    return made


exports = group("export", USE, "Write a prompt for other people's code.")
exports.command("coop", cls=Command)(exchange.export_coop)
exports.command("embeddings", cls=Command)(exchange.export_embeddings)
exports.command("onnx", cls=Command)(exchange.export_onnx)

imports = group("import", USE, "Read a prompt from other people's code.")
imports.command("coop", cls=Command)(exchange.import_coop)

clusters = group("cluster", RUN, "Run the pipeline on a cluster of machines.")
clusters.command(cls=Command)(cluster.up)
clusters.command(cls=Command, context_settings=PASS_ON)(cluster.submit)
clusters.command(cls=Command)(cluster.send)
clusters.command(cls=Command)(cluster.fetch)
clusters.command(cls=Command)(cluster.down)


def show_version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        print(version("loqua"))
        raise typer.Exit


@app.callback()
def loqua(
    _: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Loqua: low-rank quantized prompts for CLIP.

    Run the pipeline itself with `make repro`, or `dvc repro STAGE`.
    """


def main() -> None:
    """Run `loqua`."""
    app(prog_name="loqua")
