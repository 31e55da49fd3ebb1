"""Start a cluster, run stages on it, fetch what they made, stop it. No stage of DVC."""

import argparse
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import run_stage
from pipeline.core.locks import exclusive
from pipeline.core.provenance import checkout_id
from pipeline.params import load_params
from pipeline.sweep import launcher as remote
from pipeline.tracking.tracker import Tracker

STEPS = {
    "up": "start the machines, or bring them up to date",
    "send": "send the project to the head",
    "submit": "send the project, run `dvc repro` there, fetch what it made",
    "fetch": "fetch what runs made there",
    "down": "stop the machines",
}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="STEP", dest="step")
    for step, text in STEPS.items():
        command = commands.add_parser(step, help=text, description=text)
        command.add_argument("cluster", type=Path, metavar="CLUSTER.yaml")
        if step == "submit":
            command.add_argument(
                "arguments", nargs=argparse.REMAINDER, metavar="...",
                help="of `dvc repro`; default: evaluate",
            )  # fmt: skip
    return parser.parse_args()


def main() -> None:
    """Run one step."""
    options = parse()
    if options.step in ("send", "submit"):
        params = load_params()  # a mistake in it is told here, not there
        remote.load_cluster(options.cluster)
        with exclusive(paths.STATE / "sweep.lock", "another sweep"):
            # The head goes on with copies of these: made here, they name this checkout.
            checkout_id()
            Tracker(params.tracking, paths.STATE)
            if options.step == "send":
                remote.send(options.cluster)
            else:
                remote.submit(options.cluster, options.arguments or ["evaluate"])
    else:
        {"up": remote.up, "fetch": remote.fetch, "down": remote.down}[options.step](options.cluster)


if __name__ == "__main__":
    run_stage(main)
