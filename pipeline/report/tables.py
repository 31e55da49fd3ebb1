"""Results in the papers' form: tables as Markdown, LaTeX and CSV, computed from measurements.

Accuracies are in [0, 1] in the measurements and in percent in the tables.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import mean, stdev

from pipeline.report.paper_results import BACKBONE, BENCHMARK, ROWS, SHOTS
from pipeline.report.summary import METHODS
from pipeline.training.metrics import harmonic_mean
from pipeline.training.records import Measurement

Cell = str
LATEX = str.maketrans(
    {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "\N{EN DASH}": "--"}
)


@dataclass(frozen=True)
class ResultTable:
    """A table for people.

    Attributes:
        name: of its file.
        title: what it shows, and how it is averaged.
        columns: heads; the first `n_words` are words, the others numbers.
        rows: cells.
        n_words: columns that are words.
    """

    name: str
    title: str
    columns: list[Cell]
    rows: list[list[Cell]]
    n_words: int = 1

    @property
    def markdown(self) -> str:
        """The table with its title."""
        rule = ["---"] * self.n_words + ["---:"] * (len(self.columns) - self.n_words)
        lines = [f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows)]
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n"

    @property
    def latex(self) -> str:
        """The table for a paper; needs the package booktabs."""
        align = "l" * self.n_words + "r" * (len(self.columns) - self.n_words)

        def line(cells: Iterable[Cell]) -> str:
            return " & ".join(cell.translate(LATEX) for cell in cells) + r" \\"

        body = "\n".join(line(row) for row in self.rows)
        return (
            f"% {self.title}\n\\begin{{tabular}}{{{align}}}\n\\toprule\n{line(self.columns)}\n"
            f"\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
        )

    @property
    def csv(self) -> str:
        """The cells, comma separated."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.columns, *self.rows])
        return out.getvalue()


def cell(values: Sequence[float]) -> Cell:
    """Write accuracies of several seeds in percent: mean, and spread if there are several."""
    percent = [100 * value for value in values]
    spread = f" ± {stdev(percent):.1f}" if len(percent) > 1 else ""
    return f"{mean(percent):.1f}{spread}"


Group = dict[int | None, list[Measurement]]


def by_seed(measurements: Iterable[Measurement]) -> Group:
    """Group measurements by their seed."""
    groups: Group = {}
    for one in measurements:
        groups.setdefault(one.seed, []).append(one)
    return groups


def seed_means(measurements: Iterable[Measurement]) -> list[float]:
    """Return each seed's mean accuracy."""
    return [mean(one.accuracy for one in own) for own in by_seed(measurements).values()]


def methods_of(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Group measurements by method, in the order of the field."""
    present = list(dict.fromkeys(one.method for one in measurements))
    order = [*(m for m in METHODS if m in present), *(m for m in present if m not in METHODS)]
    return {method: [one for one in measurements if one.method == method] for method in order}


def harmonic_means(own: Sequence[Measurement]) -> tuple[list[float], list[float]]:
    """Return each seed's harmonic mean over tasks by both definitions.

    The field's is that of the averaged base and the averaged new; the other, never higher, is
    the mean of the tasks' own.
    """
    of_means, of_tasks = [], []
    for group in by_seed(own).values():
        sides = {
            side: {one.source: one.accuracy for one in group if one.side == side}
            for side in ("base", "new")
        }
        base, new = sides["base"], sides["new"]
        of_means.append(harmonic_mean(mean(base.values()), mean(new.values())))
        of_tasks.append(mean(harmonic_mean(base[task], new[task]) for task in base))
    return of_means, of_tasks


def costs(own: Sequence[Measurement]) -> list[Cell]:
    """Write stored bytes, trained parameters (of one task's prompt, the largest) and seconds."""
    size, count = (
        max(getattr(one, name) for one in own) for name in ("size_bytes", "n_parameters")
    )
    return [f"{size:,}", f"{count:,}", f"{mean(one.seconds for one in own):.1f}"]


def base_to_new_tables(found: Sequence[Measurement]) -> list[ResultTable]:
    """Return the averages, and every data set."""
    near = [one for one in found if one.domain == "shots"]
    averages, every = [], []
    tasks = list(dict.fromkeys(one.source for one in near))
    for method, own in methods_of(near).items():
        of_means, of_tasks = harmonic_means(own)
        sides = [[one for one in own if one.side == side] for side in ("base", "new")]
        cells = [cell(seed_means(side)) for side in sides]
        averages.append([label(method), *cells, cell(of_means), cell(of_tasks), *costs(own)])
    for task in tasks:
        for method, own in methods_of([one for one in near if one.source == task]).items():
            sides = [[one for one in own if one.side == side] for side in ("base", "new")]
            cells = [cell(seed_means(side)) for side in sides]
            every.append([task, label(method), *cells, cell(harmonic_means(own)[0])])
    title = f"Base to new, mean over {len(tasks)} data sets"
    head = ["method", "base", "new", "HM of the averages", "mean of the HMs"]
    head += ["bytes", "parameters", "seconds"]
    return [
        ResultTable("averages", title, head, averages),
        ResultTable(
            "data-sets",
            "Base to new, every data set",
            ["data set", "method", "base", "new", "HM"],
            every,
            2,
        ),
    ]


def pivot(
    name: str,
    title: str,
    found: Sequence[Measurement],
    column: Callable[[Measurement], str],
    average: str | None = None,
) -> ResultTable:
    """Return a table with a row per source and method, and a column for each value of `column`.

    With `average`, a last column holds the mean over all columns but the first.
    """
    heads = list(dict.fromkeys(column(one) for one in found if one.shots)) or ["accuracy"]
    rows = []
    for source in dict.fromkeys(one.source for one in found):
        own_source = [one for one in found if one.source == source]
        for method, own in methods_of(own_source).items():
            parts = {head: [o for o in own if column(o) == head] for head in heads}
            if not any(parts.values()):  # zero-shot has no shots: the same in every column
                parts = dict.fromkeys(heads, own)
            cells = [cell(seed_means(part)) if part else "\N{EN DASH}" for part in parts.values()]
            if average:
                others = [one for head in heads[1:] for one in parts[head]]
                cells.append(cell(seed_means(others)) if others else "\N{EN DASH}")
            rows.append([source, label(method), *cells])
    return ResultTable(
        name, title, ["trained on", "method", *heads, *filter(None, [average])], rows, 2
    )


def label(method: str) -> str:
    """Return a method's name for people."""
    return METHODS.get(method, method)


def protocol_tables(protocol: str, found: Sequence[Measurement]) -> list[ResultTable]:
    """Return the tables of a protocol."""
    if protocol == "base_to_new":
        return base_to_new_tables(found)
    if protocol == "few_shot":
        mean_row = [
            Measurement(**{**asdict(one), "source": "mean over data sets"}) for one in found
        ]
        title = "Accuracy on all classes, by shots"
        return [
            pivot(name, f"{title}{what}", own, lambda one: f"{one.shots} shots")
            for name, what, own in (("averages", ", mean", mean_row), ("data-sets", "", found))
        ]
    if protocol == "cross_dataset":
        title = "Accuracy on other data sets"
        return [pivot("transfer", title, found, lambda one: one.target, "mean of the others")]

    def domain(one: Measurement) -> str:
        if one.target != one.source:
            return one.target
        return "source" if one.domain == "shots" else one.domain

    return [pivot("domains", "Accuracy in other domains", found, domain, "mean of the others")]


def published_table(same_benchmark: bool) -> ResultTable:
    """Return the papers' rows, saying whether they stand on the same benchmark."""
    where = (
        "the same benchmark: eleven data sets, ViT-B/16 of CLIP, 16 shots"
        if same_benchmark
        else "another benchmark (eleven photo data sets, ViT-B/16 of CLIP, 16 shots): not to be "
        "compared with the rows above"
    )
    rows = [
        [row.method, row.source, row.stored, *(f"{value:.2f}" for value in row[3:])] for row in ROWS
    ]
    columns = ["method", "source", "stored", "base", "new", "HM of the averages"]
    return ResultTable("published", f"Published, on {where}", columns, rows, 2)


def is_published_benchmark(
    tasks: Sequence[str], comparable: bool, backbone: tuple[str, str | None], shots: int
) -> bool:
    """Return whether results may stand beside the papers'."""
    return comparable and set(tasks) == set(BENCHMARK) and backbone == BACKBONE and shots == SHOTS


def tidy_csv(found: Sequence[Measurement]) -> str:
    """Return all measurements, one row each, for other tools."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Measurement)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(one) for one in found)
    return out.getvalue()


def table_files(tables: Sequence[ResultTable], found: Sequence[Measurement]) -> Mapping[str, str]:
    """Return the files of all tables, by name."""
    files = {"measurements.csv": tidy_csv(found)}
    for table in tables:
        files |= {
            f"{table.name}.md": table.markdown,
            f"{table.name}.tex": table.latex,
            f"{table.name}.csv": table.csv,
        }
    return files
