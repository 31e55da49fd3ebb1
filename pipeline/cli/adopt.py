"""`loqua adopt`: keep the trials of an earlier code."""

from __future__ import annotations

from typing import Annotated

import typer


def adopt(
    study: Annotated[
        str, typer.Argument(help="Name of an earlier study, or its beginning; the sweep prints it.")
    ],
) -> None:
    """Take over the trials of an earlier code, if you know that your edit changes no result.

    The study of the code at hand gets the trials that ended, each with the commit and the code that
    made it, and a tag. The earlier study must have the same settings, features and backbone.
    """
    from pipeline.core import paths
    from pipeline.core.locks import exclusive
    from pipeline.params import load_params
    from pipeline.sweep.adopt import adopt as adopt_trials
    from pipeline.sweep.run import open_sweep

    params = load_params()
    with exclusive(paths.STATE / "sweep.lock", "a sweep"):
        search, _ = open_sweep(params.sweep, params.inputs, params.resolver)
        count = adopt_trials(search, study)
        print(f"{search.name}: {count} trials adopted; it has {search.n_ended}")
