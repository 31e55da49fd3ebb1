"""What the test showed, in numbers: every table, chart and sentence about test images is from here.

Accuracies are in [0, 1]; tables are indexed by method and seed, and where it says so by the row of
a table or chart: a task, a target or a number of shots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.report.methods import OWN_ZERO_SHOT, rank
from pipeline.training.averages import Difference, base_and_new, difference, over_tasks, tidy
from pipeline.training.records import Measurement
from pipeline.training.refit import ZERO_SHOT

BASE_TO_NEW = "base_to_new"
MEASURES = {"base": "base classes", "new": "new classes", "harmonic_mean": "harmonic mean"}
JUDGED = {
    "few_shot": "all classes, at the largest number of shots",
    "cross_dataset": "the other data sets",
    "domain_generalization": "the other domains",
}
"""What a protocol is about, where it has no base and new classes."""


@dataclass(frozen=True)
class Outcome:
    """What the test showed.

    Attributes:
        protocol: its name.
        found: the measurements, one per row, with the `place` that was tested and whether the
            protocol is about it (`judged`).
        measures: what was measured, in words, by column; the last one decides.
        overall: by method and seed, means over all places that are judged.
        places: by place, method and seed; the judged ones.
        rows: by row, method and seed; what charts and tables show.
        costs: by method: bytes, parameters (of one prompt, the largest) and seconds (mean).
    """

    protocol: str
    found: pd.DataFrame
    measures: Mapping[str, str]
    overall: pd.DataFrame
    places: pd.DataFrame
    rows: pd.DataFrame
    costs: pd.DataFrame

    @property
    def main(self) -> str:
        """The column that decides."""
        return list(self.measures)[-1]

    @property
    def held_out(self) -> list[str]:
        """The columns of held-out domains, if there are any."""
        return [name for name in ("held_out_base", "held_out_new") if name in self.overall]

    @property
    def methods(self) -> list[str]:
        """All methods, in the order of the tables."""
        return sorted(self.overall.index.unique("method"), key=rank)

    @property
    def tuned(self) -> list[str]:
        """All methods but zero-shot."""
        return [name for name in self.methods if name not in (ZERO_SHOT, OWN_ZERO_SHOT)]

    @property
    def zero_shot(self) -> str | None:
        """The better of the zero-shot methods, or None without any."""
        known = [name for name in (ZERO_SHOT, OWN_ZERO_SHOT) if name in self.methods]
        return max(known, key=self.mean, default=None)

    @property
    def best(self) -> str:
        """The best method; of equals to a tenth of a percent: zero-shot, champion, the smallest."""
        ties = {ZERO_SHOT: 0, OWN_ZERO_SHOT: 0, "champion": 1}
        return min(
            self.methods,
            key=lambda name: (-round(self.mean(name), 3), ties.get(name, 2), self.size(name)),
        )

    def of(self, method: str, measure: str | None = None) -> pd.Series[float]:
        """Return one value per seed of a method."""
        values: pd.Series[float] = self.overall[measure or self.main].loc[method]
        return values

    def mean(self, method: str, measure: str | None = None) -> float:
        """Return the mean over seeds."""
        return float(self.of(method, measure).mean())

    def size(self, method: str) -> int:
        """Return the bytes of one prompt, the largest."""
        return int(self.costs["size_bytes"][method])

    def gap(self, first: str, second: str, measure: str | None = None) -> Difference:
        """Compare two methods."""
        return difference(self.of(first, measure), self.of(second, measure))

    def places_ahead(self, first: str, second: str, measure: str | None = None) -> tuple[int, int]:
        """Return in how many places the first is above the second, and of how many."""
        means = (
            self.places[measure or self.main].groupby(level=["place", "method"]).mean().unstack()
        )
        both = means[[first, second]].dropna()
        return int((both[first] > both[second]).sum()), len(both)


def summarize(protocol: str, measurements: Sequence[Measurement]) -> Outcome:
    """Average measurements by their protocol.

    Raises:
        ValueError: if base or new accuracy is missing or doubled, or zero-shot is missing.
    """
    tasks = list(dict.fromkeys(one.source for one in measurements))
    order = sorted(measurements, key=lambda m: (tasks.index(m.source), rank(m.method), m.seed or 0))
    found = tidy(order)
    found["place"] = found["target"].where(
        (found["target"] != found["source"]) | (found["domain"] == "shots"), found["domain"]
    )
    near = found[found["domain"] == "shots"].groupby("method", sort=False)
    costs = near.agg({"size_bytes": "max", "n_parameters": "max", "seconds": "mean"})
    if protocol == BASE_TO_NEW:
        if ZERO_SHOT not in costs.index:
            raise ValueError(f"results.json: no measurements of {ZERO_SHOT}; expected its rows")
        halves = base_and_new(found).rename_axis(index={"source": "row"})
        rows, found["judged"] = over_tasks(halves, ("row", "method")), True
        places = rows.rename_axis(index={"row": "place"})
        return Outcome(protocol, found, MEASURES, over_tasks(halves), places, rows, costs)
    if protocol == "few_shot":
        counts = [shots for shots in sorted(found["shots"].unique()) if shots]
        own = {
            f"{shots} shot{'s' if shots > 1 else ''}": found[found["shots"].isin([0, shots])]
            for shots in counts
        }
        found = pd.concat([part.assign(row=row) for row, part in own.items()])
        found["judged"] = found["row"] == list(own)[-1]
    else:
        others = (found["target"] != found["source"]) | (found["domain"] != "shots")
        found = found.assign(row=found["place"], judged=others if others.any() else True)
    keyed = found.set_index(["row", "place", "method", "seed"])[["accuracy", "judged"]]
    judged, every = keyed.loc[keyed["judged"], ["accuracy"]], keyed[["accuracy"]]
    return Outcome(
        protocol,
        found,
        {"accuracy": "accuracy"},
        over_tasks(judged),
        over_tasks(judged, ("place", "method")),
        over_tasks(every, ("row", "method")),
        costs,
    )
