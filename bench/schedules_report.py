"""Write docs/schedules.md and docs/schedules.svg from bench/schedules.json."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from bench.schedules import METHODS, SEEDS, SHOTS, STRIDES, Unit
from pipeline.core.files import write_atomic
from pipeline.params import load_params

PAGE, FIGURE = Path("docs/schedules.md"), Path("docs/schedules.svg")
SIDES = ("base", "new")
COLOURS = {"base": "#2f5d8a", "new": "#c2703d"}
INTRODUCTION = """\
# Fewer steps

Written by `make schedules` from `bench/schedules.json`.

CoOp's schedule ({shots} shots: 200 passes in batches of 32) takes thousands of small steps, and
each costs a pass of the text tower over all classes, however few images it looks at. Small steps
follow the gradient flow, so what counts is the sum of their learning rates. `schedule: fast`
spends that sum, times a boost, on the whole batch, one step for `stride` of CoOp's: SGD with
Nesterov's momentum, {warmup} steps of warm-up, a plateau, and a linear decay over the last
{decay:.0%}. A plateau needs a lower peak for the same sum than a cosine, and the peak is what makes
a quantized prompt jump. `train.lr` means the same in both.

The boost: the flow starts on a flat stretch, which the noise of small batches leaves sooner than
the whole batch does. It is the multiple ({boost}) at which fast ends at the training loss of CoOp's
schedule; the stride is the largest tried at which validation accuracy follows, too (chosen on
activities, food-drink, animals-nature and smileys-emotion). Tried and left: AdamW (the same base
accuracy costs more of the new classes'), momentum 0.95 and 0.98 (slower) and 0.8 (unstable at high
rates), a cosine (a higher peak, no gain).

Below: the embedded benchmark, 4 tokens, lr 0.002, mean and spread (sample standard deviation)
over {seeds} seeds, test images in the styles of the shots. `noise` is twice the standard error of
the difference of the two means; fast *reaches* CoOp's schedule where it is not lower by more.
"""


def last(result: dict[str, Any], side: str, split: str = "test") -> list[float]:
    """Return the final accuracies of all seeds, in percent."""
    return [100 * value for value in result["curve"][-1][f"{split}_{side}"]]


def noise(first: Sequence[float], second: Sequence[float]) -> float:
    """Return twice the standard error of the difference of two means."""
    return 2 * sqrt(stdev(first) ** 2 / len(first) + stdev(second) ** 2 / len(second))


def comparison(results: dict[str, Any], tasks: list[str], stride: int) -> list[str]:
    """Return the rows of the table: every task and method, fast against CoOp's schedule."""
    head = "| task | method | steps, CoOp's | fast | side | CoOp's | fast | difference | noise | |"
    rows = [head, "|---|---|---:|---:|---|---:|---:|---:|---:|---|"]
    for task in tasks:
        for method in METHODS:
            pair = [results.get(Unit(task, method, s).key) for s in (None, stride)]
            if None in pair:
                continue
            coop, fast = pair
            for side in SIDES:
                slow, quick = last(coop, side), last(fast, side)
                difference, margin = mean(quick) - mean(slow), noise(quick, slow)
                verdict = "reached" if difference >= -margin else "**below**"
                rows.append(
                    f"| {task} | {method} | {coop['n_steps']:,} | {fast['n_steps']} | {side} "
                    f"| {mean(slow):.1f} ± {stdev(slow):.1f} | {mean(quick):.1f} ± "
                    f"{stdev(quick):.1f} | {difference:+.1f} | {margin:.1f} | {verdict} |"
                )
    return rows


def measured(results: dict[str, Any], tasks: list[str], method: str) -> list[str]:
    """Return the tasks on which all schedules of a method were measured."""
    schedules = (None, *STRIDES)
    return [t for t in tasks if all(Unit(t, method, s).key in results for s in schedules)]


def summary(results: dict[str, Any], tasks: list[str]) -> list[str]:
    """Return the rows of the means over tasks, for every stride."""
    rows = ["| method | schedule | base | new |", "|---|---|---:|---:|"]
    for method in METHODS:
        done = measured(results, tasks, method)
        for stride in (None, *STRIDES) if done else ():
            found = [results[Unit(task, method, stride).key] for task in done]
            cells = []
            for side in SIDES:
                per_seed = [
                    mean(values) for values in zip(*(last(r, side) for r in found), strict=True)
                ]
                cells.append(f"{mean(per_seed):.1f} ± {stdev(per_seed):.1f}")
            name = f"fast, stride {stride}" if stride else "coop"
            rows.append(f"| {method} | {name} | {' | '.join(cells)} |")
    return rows


def draw(results: dict[str, Any], tasks: list[str]) -> Any:
    """Draw accuracy against steps: CoOp's schedule as it trains, fast at its end."""
    mpl.rcParams["svg.hashsalt"] = "loqua"
    figure, axes = plt.subplots(1, len(METHODS), figsize=(11, 3.6), sharey=True, squeeze=False)
    for axis, method in zip(axes[0], METHODS, strict=True):
        axis.set(xscale="log", title=method, xlabel="steps, as a share of CoOp's schedule")
        axis.spines[["top", "right"]].set_visible(False)
        if not (done := measured(results, tasks, method)):
            continue
        coop = [results[Unit(task, method, None).key] for task in done]
        for side in SIDES:
            shares = [point["step"] / coop[0]["n_steps"] for point in coop[0]["curve"]]
            curve = [
                100 * mean(mean(r["curve"][i][f"test_{side}"]) for r in coop)
                for i in range(len(shares))
            ]
            axis.plot(shares, curve, color=COLOURS[side], lw=1.2, label=f"{side}, coop")
            fast = [
                mean(mean(last(results[Unit(task, method, stride).key], side)) for task in done)
                for stride in STRIDES
            ]
            axis.plot(
                [1 / stride for stride in STRIDES],
                fast,
                "o",
                color=COLOURS[side],
                ms=5,
                label=f"{side}, fast",
            )
            axis.axhline(curve[-1], color=COLOURS[side], lw=0.6, ls=":")
    axes[0][0].set_ylabel("test accuracy (%), mean over tasks")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def write_report(results: dict[str, Any]) -> None:
    """Write page and figure from what was measured."""
    params = load_params()
    tasks, fast = params.tasks, params.train.fast
    missing = [
        f"{task} ({method})"
        for task in tasks
        for method in METHODS
        if task not in measured(results, tasks, method)
    ]
    page = [
        INTRODUCTION.format(
            shots=SHOTS,
            seeds=len(SEEDS),
            warmup=fast.warmup_steps,
            decay=fast.decay,
            boost=", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in fast.boost),
        ),
        "![accuracy against steps](schedules.svg)\n",
        *([f"Still to be measured: {', '.join(missing)}.\n"] if missing else []),
        "## Mean over the tasks\n",
        *summary(results, tasks),
        f"\n## Every task, stride {fast.stride}\n",
        *comparison(results, tasks, fast.stride),
    ]
    write_atomic(PAGE, lambda path: path.write_text("\n".join(page) + "\n"))
    figure = draw(results, tasks)
    write_atomic(FIGURE, lambda path: figure.savefig(path, format="svg", metadata={"Date": None}))
    plt.close(figure)
