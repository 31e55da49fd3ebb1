"""The `loqua` command, called in this process."""

import signal

from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner, Result

from pipeline.cli.app import app


def loqua(*arguments: object) -> Result:
    """Run `loqua`; the result has its exit code, stdout and stderr."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="loqua")
    finally:  # a command sets its own
        for number, handler in handlers.items():
            signal.signal(number, handler)


def all_commands(group: object = None, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return every command, as the words that call it."""
    group = group or get_command(app)
    if not isinstance(group, TyperGroup):
        return [words]
    below = (all_commands(one, (*words, name)) for name, one in group.commands.items())
    return [found for part in below for found in part]
