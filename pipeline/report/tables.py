"""Tables of the report: on both pages, in the terminal, and as Markdown, LaTeX and CSV.

Accuracies are in percent, with their spread over seeds; see `pipeline.training.averages`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from pipeline.report.methods import look
from pipeline.report.outcome import BASE_TO_NEW, MEASURES, Outcome
from pipeline.report.paper_results import ROWS
from pipeline.report.words import DASH, MINUS, describe, percent, points, with_spread
from pipeline.training.records import FailedTrial, Measurement, TrialRecord

LATEX = str.maketrans({"±": r"$\pm$", DASH: "--"})
NUMBER = rf"[+{MINUS}]?[\d.,]+( ± [\d.]+)?|{DASH}"
HEADS = {
    "size_bytes": "bytes",
    "n_parameters": "parameters",
    "harmonic_mean": "HM of the averages",
    "task_harmonic_mean": "mean of the HMs",
    "held_out_base": "held-out base",
    "held_out_new": "held-out new",
    "accuracy": "accuracy",
}


@dataclass(frozen=True)
class Table:
    """A table for people.

    Attributes:
        name: of its file.
        title: what it shows, and how it is averaged.
        frame: its cells, as text.
        bold: places of rows that stand out.
    """

    name: str
    title: str
    frame: pd.DataFrame
    bold: frozenset[int] = frozenset()

    @property
    def numbers(self) -> list[bool]:
        """For each column, whether its cells are numbers, which are set to the right."""
        return [bool(self.frame[head].str.fullmatch(NUMBER).all()) for head in self.frame]

    @property
    def markdown(self) -> str:
        """The table without its title."""
        cells = self.frame.replace({r"\|": r"\\|", r"\s+": " "}, regex=True)
        for place in self.bold:
            cells.iloc[place] = "**" + cells.iloc[place] + "**"
        align = ["right" if number else "left" for number in self.numbers]
        return str(cells.to_markdown(index=False, disable_numparse=True, colalign=align))

    @property
    def latex(self) -> str:
        """The table for a paper, with its title as a comment; needs the package booktabs."""
        align = "".join("r" if number else "l" for number in self.numbers)
        body = self.frame.to_latex(index=False, escape=True, column_format=align)
        return f"% {self.title}\n{body}".translate(LATEX)

    @property
    def files(self) -> dict[str, str]:
        """The table in every format, by file name."""
        return {
            f"{self.name}.md": f"### {self.title}\n\n{self.markdown}\n",
            f"{self.name}.tex": self.latex,
            f"{self.name}.csv": self.frame.to_csv(index=False),
        }


def table(name: str, title: str, rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table of rows, whose cells become text."""
    return Table(name, title, pd.DataFrame(list(rows)).astype(str))


def grid(outcome: Outcome, index: Sequence[str], column: str, average: str = "") -> pd.DataFrame:
    """Return accuracies, mean over what neither `index` nor `column` names, as text.

    With `average`, a last column of that name has the mean over all judged places.
    """

    def cells(found: pd.DataFrame, by: Sequence[str]) -> pd.Series[str]:
        means = found.groupby([*by, "seed"], sort=False)["accuracy"].mean()
        return means.groupby(level=list(by), sort=False).agg(with_spread)

    found = outcome.found
    wide = cells(found, [*index, column]).unstack(sort=False)
    if average:
        wide[average] = cells(found[found["judged"]], index)
    return wide.fillna(DASH).reset_index()


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with names for people instead of keys."""
    frame = frame.rename(columns={"source": "trained on", "row": "data set", **HEADS})
    return frame.assign(method=[look(method).label for method in frame["method"]])


def result_tables(outcome: Outcome, is_published_benchmark: bool) -> list[Table]:
    """Return the averages first, then every data set or target, then the papers' results."""
    if outcome.protocol == BASE_TO_NEW:
        return [*base_to_new_tables(outcome), published_table(is_published_benchmark)]
    if outcome.protocol == "few_shot":
        title = "Accuracy on all classes, by shots"
        every = Table("data-sets", title, named(grid(outcome, ["source", "method"], "row")))
        mean = named(grid(outcome, ["method"], "row"))
        return [Table("averages", f"{title}, mean over data sets", mean), every]
    name, title = (
        ("transfer", "Accuracy on other data sets")
        if outcome.protocol == "cross_dataset"
        else ("domains", "Accuracy in other domains")
    )
    cells = grid(outcome, ["source", "method"], "place", "mean of the others")
    return [Table(name, title, named(cells))]


def base_to_new_tables(outcome: Outcome) -> list[Table]:
    """Return the averages with what each method costs, and every data set."""
    costs = outcome.costs.loc[outcome.methods]
    written = {"size_bytes": "{:,}", "n_parameters": "{:,}", "seconds": "{:.1f}"}
    words = pd.DataFrame({name: costs[name].map(form.format) for name, form in written.items()})
    overall = outcome.overall.groupby(level="method", sort=False).agg(with_spread).join(words)
    averages = overall.loc[
        costs.index, [*MEASURES, "task_harmonic_mean", *written, *outcome.held_out]
    ]
    rows = outcome.rows.groupby(level=["row", "method"], sort=False)
    best = rows["harmonic_mean"].mean().groupby(level="row").idxmax()
    every = rows.agg(with_spread)[[*MEASURES, *outcome.held_out]]
    bold = frozenset(place for place, key in enumerate(every.index) if key in set(best))
    every = named(every.reset_index()).rename(columns={HEADS["harmonic_mean"]: "HM"})
    title = f"Base to new, mean over {outcome.rows.index.unique('row').size} data sets"
    return [
        Table("averages", title, named(averages.reset_index())),
        Table("data-sets", "Base to new, every data set", every, bold),
    ]


def comparison_table(outcome: Outcome) -> Table | None:
    """Return the differences of methods in points with their noise; None with nothing to compare.

    Every tuned method is compared with the better zero-shot, and the champion with CoOp.
    """
    pairs = [(name, outcome.zero_shot) for name in outcome.tuned if outcome.zero_shot]
    if {"champion", "coop"} <= set(outcome.methods):
        pairs.append(("champion", "coop"))
    rows = []
    for first, second in pairs:
        row = {"method": look(first).label, "against": look(str(second)).label}
        for column in (*outcome.measures, *outcome.held_out):
            gap = outcome.gap(first, str(second), column)
            noise = "" if gap.noise is None else f" ± {percent(gap.noise)}"
            row[outcome.measures.get(column) or HEADS[column]] = f"{points(gap.mean)}{noise}"
        gap, places = outcome.gap(first, str(second)), outcome.places_ahead(first, str(second))
        rows.append(
            row
            | {
                "seeds ahead": f"{gap.ahead} of {gap.n_seeds}",
                "tasks ahead": "{} of {}".format(*places),
            }
        )
    title = f"Differences in points ± noise; ahead by {outcome.measures[outcome.main]}"
    return table("comparisons", title, rows) if rows else None


def published_table(same_benchmark: bool) -> Table:
    """Return the papers' rows, saying whether they are of the same benchmark."""
    where = (
        "the same benchmark: eleven data sets, ViT-B/16 of CLIP, 16 shots"
        if same_benchmark
        else "another benchmark (eleven photo data sets, ViT-B/16 of CLIP, 16 shots): do not "
        "compare with the rows above"
    )
    frame = pd.DataFrame(ROWS, columns=["method", "source", "stored", *MEASURES]).rename(
        columns=HEADS
    )
    return Table("published", f"Published, on {where}", frame.map(cell))


def cell(value: object) -> str:
    """Write a published value."""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def trial_row(trial: TrialRecord) -> dict[str, Any]:
    """Return a trial's row: accuracies on validation images."""
    return {
        "trial": trial.number,
        "bytes": f"{trial.size_bytes:,}",
        "validation score": percent(trial.score),
        "base": percent(trial.base),
        "new": percent(trial.new),
        "settings": describe(trial.settings),
    }


def winners_table(winners: Mapping[str, TrialRecord]) -> Table:
    """Return the winners."""
    rows = ({"method": look(role).label} | trial_row(trial) for role, trial in winners.items())
    return table("winners", "Winners", rows)


def front_table(front: Sequence[TrialRecord]) -> Table:
    """Return the trials that no other beats in score without being larger."""
    return table("front", "The Pareto front", map(trial_row, front))


def stopped_table(pruned: Sequence[TrialRecord]) -> Table:
    """Return trials that were stopped early."""
    rows = (trial_row(trial) | {"rounds": len(trial.history)} for trial in pruned)
    return table("stopped", "Trials that were stopped early", rows)


def failed_table(failed: Sequence[FailedTrial]) -> Table:
    """Return failed trials with their reasons."""
    rows = (
        {"trial": t.number, "reason": t.reason, "settings": describe(t.settings)} for t in failed
    )
    return table("failed", "Failed trials", rows)


def axis_means(trials: Sequence[TrialRecord], name: str) -> pd.DataFrame:
    """Average the trials that share a value of a setting; numbers ascending, then words.

    Returns:
        Rows by value; columns `trials`, and means `base`, `new`, `score`, and the `best` score.
    """
    known = [trial for trial in trials if name in trial.settings]
    cells = [(t.settings[name], t.number, t.base, t.new, t.score, t.score) for t in known]
    frame = pd.DataFrame(cells, columns=["value", "trials", "base", "new", "score", "best"])
    how = {"trials": "count", "base": "mean", "new": "mean", "score": "mean", "best": "max"}
    means = frame.groupby("value", sort=False).agg(how)
    order = sorted(means.index, key=lambda value: (isinstance(value, str), value))
    return means.loc[order]


def axis_table(name: str, frame: pd.DataFrame) -> Table:
    """Return means by the values of a setting."""
    means = frame.assign(trials=frame["trials"].astype(str))
    for head in ("base", "new", "score", "best"):
        means[head] = [percent(value) for value in frame[head]]
    cells = means.rename(columns={"score": "mean score", "best": "best score"})
    return Table(name, f"By {name}", cells.rename_axis(name).reset_index().astype(str))


def origins_table(trials: Sequence[TrialRecord]) -> Table | None:
    """Return which code made which trials, if not all were made by the same."""
    known = [t for t in trials if getattr(t, "origin", None)]
    if not known:
        return None
    made = pd.DataFrame([{"trial": t.number, **asdict(t.origin)} for t in known])
    groups = made.astype(str).groupby(["git_commit", "code"], sort=False)["trial"]
    rows = groups.agg(", ".join).reset_index()
    return Table("origins", "Trials by the code that made them", rows) if len(rows) > 1 else None


def measurements_csv(measurements: Sequence[Measurement]) -> str:
    """Return all measurements, one row each, for other tools."""
    frame = pd.DataFrame(map(asdict, measurements)).astype({"seed": "Int64"})
    return frame.to_csv(index=False)
