"""The `loqua` command, called in this process."""

import signal

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
