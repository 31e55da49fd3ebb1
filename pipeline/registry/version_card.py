"""The model card of a registered version: its description, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from pipeline.registry.release import MAX_TAG, Release
from pipeline.training.metrics import harmonic_mean, mean_and_spread
from pipeline.training.records import Measurement

MAX_CARD = MAX_TAG
"""Characters: MLflow's tables on PostgreSQL and MySQL hold no more."""


def version_card(
    name: str, number: str, release: Release, tags: Mapping[str, str], licenses: Sequence[str]
) -> str:
    """Return the card: what it is, use, test accuracy, data, limits, licenses.

    Rows of single tasks are left out from the last on where the card would be too long.

    Args:
        name: of the registered model.
        number: of the version.
        release: what it holds.
        tags: of the version.
        licenses: a line for each thing that has one.
    """
    rows = score_rows(release.measured)
    shortest = render(name, number, release, tags, licenses, [], len(rows))
    kept, room = 0, MAX_CARD - len(shortest)
    while kept < len(rows) and (room := room - len(rows[kept]) - 1) >= 0:
        kept += 1
    card = render(name, number, release, tags, licenses, rows[:kept], len(rows) - kept)
    return card[:MAX_CARD]


def render(
    name: str,
    number: str,
    release: Release,
    tags: Mapping[str, str],
    licenses: Sequence[str],
    rows: Sequence[str],
    n_left_out: int,
) -> str:
    """Return the card with some tasks' rows."""
    tasks = list(release.prompts)
    left_out = [f"| {n_left_out} more tasks | | | |"] if n_left_out else []
    mean_row = score_rows(release.measured, together=True)
    towers = "travel with this version" if release.towers else "are named, and loaded by that name"
    scores = "\n".join(
        ["| task | base | new | harmonic mean |", "|---|---|---|---|", *rows, *left_out, *mean_row]
        if is_halves(release.measured)
        else ["| task | tested | accuracy |", "|---|---|---|", *rows, *left_out]
    )
    return f"""# {name}, version {number}

Soft prompts for CLIP, one for each of {len(tasks)} task(s): {tags["n_ctx"]} context tokens, rank
{tags["rank"]}, {tags["bits"]} bits, {tags["size_bytes"]} bytes of learned state each. Trial
{release.trial} of {release.study}: {tags["role"]}. Trained with seed {release.seed}.

## Use

    from pipeline.registry.client import predict  # MLFLOW_TRACKING_URI says where the registry is
    answers = predict("models:/{name}/{number}", ["picture.png"], task="{tasks[0]}")
    print(answers[["class_name", "probability"]])

Tasks: {", ".join(tasks)}. With `classes=["cat", "dog"]` it chooses among any names.

## Test accuracy (%), mean and spread over the seeds {tags["seeds"]}

{scores}

Validation score, by which it was chosen: {100 * release.score:.2f}. No test image was looked at
for that.

## Data

Protocol {tags["protocol"]}, {tags["shots"]} shots a class; data {tags["data_hash"][:12]}, code
{tags["git_commit"][:12]}.

## Limits

The prompts mean nothing to other towers than {tags["backbone"]} (fingerprint
{tags["fingerprint"][:12]}), which {towers}. A picture of something else gets a class, too:
probabilities compare the names that were asked for, and are not calibrated.

## Licenses

{chr(10).join(f"- {line}" for line in licenses)}
"""


def score_rows(measured: Sequence[Measurement], together: bool = False) -> list[str]:
    """Return a table's rows, one per task, or one for the means over all tasks."""
    halves, groups = is_halves(measured), dict[str, list[Measurement]]()
    for one in measured:
        if one.domain == "shots":
            place = one.source if halves else f"{one.source} | {one.target}"
            groups.setdefault("**mean**" if together else place, []).append(one)
    if not halves:
        return [
            f"| {place} | {percent([one.accuracy for one in own])} |"
            for place, own in groups.items()
        ]
    rows = []
    for place, own in groups.items():
        base, new = (by_seed(own, side) for side in ("base", "new"))
        both = [harmonic_mean(b, n) for b, n in zip(base, new, strict=True)]
        rows.append(f"| {place} | {' | '.join(map(percent, (base, new, both)))} |")
    return rows


def is_halves(measured: Sequence[Measurement]) -> bool:
    """Return whether base and new classes were tested apart."""
    return any(one.side == "base" for one in measured)


def by_seed(measured: Sequence[Measurement], side: str) -> list[float]:
    """Return the mean accuracy for each seed, in ascending order of seeds."""
    groups: dict[int, list[float]] = {}
    for one in measured:
        if one.side == side:
            groups.setdefault(one.seed or 0, []).append(one.accuracy)
    return [mean(groups[seed]) for seed in sorted(groups)]


def percent(values: Sequence[float]) -> str:
    """Return mean and spread in percent; a single value has no spread."""
    middle, spread = mean_and_spread([100 * value for value in values])
    return f"{middle:.1f} ± {spread:.1f}" if len(values) > 1 else f"{middle:.1f}"


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
