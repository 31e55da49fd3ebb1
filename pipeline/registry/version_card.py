"""The model card of a registered version: its description, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.registry.release import MAX_TAG, Release
from pipeline.training.averages import base_and_new, over_tasks, tidy
from pipeline.training.metrics import with_spread
from pipeline.training.records import Measurement

MAX_CARD = MAX_TAG
"""Characters: MLflow's tables on PostgreSQL and MySQL hold no more."""


def version_card(name: str, number: str, release: Release, licenses: Sequence[str]) -> str:
    """Return the card: what it is, use, test accuracy, data, limits, licenses.

    Rows of single tasks are left out from the last on where the card would be too long.

    Args:
        name: of the registered model.
        number: of the version.
        release: what it holds.
        licenses: a line for each thing that has one.
    """
    head, rows, end = score_table(release.measured)
    for n_rows in range(len(rows), -1, -1):
        left_out = len(rows) - n_rows
        more = [f"| {left_out} more tasks |{' |' * (head[0].count('|') - 2)}"] if left_out else []
        table = "\n".join([*head, *rows[:n_rows], *more, *end])
        card = render(name, number, release, licenses, table)
        if len(card) <= MAX_CARD:
            break
    return card[:MAX_CARD]


def score_table(measured: Sequence[Measurement]) -> tuple[list[str], list[str], list[str]]:
    """Return a table's head, a row for each task, and the row of means: mean and spread."""
    found = tidy(one for one in measured if one.domain == "shots")
    if not (found["side"] == "base").any():
        cells = found.groupby(["source", "target"], sort=False)["accuracy"].agg(list)
        rows = [f"| {' | '.join(place)} | {with_spread(cell)} |" for place, cell in cells.items()]
        return ["| task | tested | accuracy |", "|---|---|---|"], rows, []
    halves = base_and_new(found)
    columns = ["base", "new", "harmonic_mean"]

    def cells_of(by: list[str]) -> list[list[str]]:
        means = over_tasks(halves, by)[columns].groupby(level=by, sort=False).agg(list)
        return [[with_spread(cell) for cell in row] for row in means.to_numpy()]

    tasks = halves.index.unique("source")
    rows = [
        f"| {' | '.join([task, *cells])} |"
        for task, cells in zip(tasks, cells_of(["source"]), strict=True)
    ]
    [means] = cells_of(["method"])
    head = ["| task | base | new | harmonic mean |", "|---|---|---|---|"]
    return head, rows, [f"| {' | '.join(['**mean**', *means])} |"]


def render(
    name: str, number: str, release: Release, licenses: Sequence[str], scores: str
) -> str:
    """Return the card around a table of scores."""
    tasks, tags = list(release.prompts), release.tags
    towers = "travel with this version" if release.towers else "are named, and loaded by that name"
    return f"""# {name}, version {number}

Soft prompts for CLIP, one for each of {len(tasks)} task(s): {tags["n_ctx"]} context tokens, rank
{tags["rank"]}, {tags["bits"]} bits, {tags["size_bytes"]} bytes of learned state each. Trial
{release.trial} of {release.study}: {tags["role"]}. Trained with seed {release.seed}.

## Use

    from pipeline.registry.client import predict  # MLFLOW_TRACKING_URI is the registry's address
    answers = predict("models:/{name}/{number}", ["picture.png"], task="{tasks[0]}")
    print(answers[["class_name", "probability"]])

Tasks: {", ".join(tasks)}. With `classes=["cat", "dog"]` it chooses among any names.

## Test accuracy (%), mean and spread over the seeds {tags["seeds"]}

{scores}

Validation score, by which it was chosen: {100 * release.score:.2f}. No test image was used for
that.

## Data

Protocol {tags["protocol"]}, {tags["shots"]} shots per class; data {tags["data_hash"][:12]}, code
{tags["git_commit"][:12]}.

## Limits

The prompts work only with the towers {tags["backbone"]} (fingerprint {tags["fingerprint"][:12]}),
which {towers}. A picture of something else gets a class, too: probabilities compare the given
names, and are not calibrated.

## Licenses

{chr(10).join(f"- {line}" for line in licenses)}
"""


def licenses(source: str, embedded: bool, backbone: str) -> list[str]:
    """Return a line for the code, the towers and the data."""
    towers = (
        "embedded towers: CC-BY-SA-4.0, trained on share-alike drawings (artifacts/pretrain)"
        if embedded
        else f"towers: {backbone}, under its owner's license"
    )
    data = (
        "pictures: emoji drawings, each style under its own license (data/README.md)"
        if source == "emoji"
        else f"pictures ({source}): their owners' licenses"
    )
    return ["code: Apache-2.0", towers, data]
