"""Write docs/ablations.md from bench/ablations.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import pandas as pd

from bench.ablations import (
    LRS,
    QUESTIONS,
    SEEDS,
    SHOTS,
    SMALL,
    Settings,
    Unit,
    chosen_settings,
    load_task,
    score,
    swept_settings,
)
from bench.units import Results
from pipeline.core.files import write_atomic
from pipeline.params import load_params
from pipeline.training.metrics import harmonic_mean

PAGE = Path("docs/ablations.md")
TITLES = {
    "rank": "Rank (RLP)",
    "bits": "Bits, quantization-aware training against rounding afterwards (QPrompt)",
    "clustering": "Normalization and adaptive clustering (QPrompt)",
    "noise": "Gaussian noise instead of quantization (QPrompt's control)",
    "residual": "Learning rates (Residual Prompt Tuning)",
    "length": "Prompt lengths (Residual Prompt Tuning)",
    "towers": "Prompts of both towers (MaPLe, QMaPLe)",
    "design": "The low-rank quantized prompt",
}
COLUMNS = "| bytes | parameters | base | new | harmonic mean |"
RULE = "|---|---:|---:|---:|---:|---:|"
INTRODUCTION = """\
# Ablations

Written by `make ablations` from `bench/ablations.json`.

The papers' own questions, on the embedded benchmark: {shots} shots, {seeds} seeds (of images, start
and data order), `schedule: fast`, lr 0.002 unless the arm says otherwise. Accuracy on test images
in percent, mean over tasks, then mean and spread (sample standard deviation) over seeds; the
harmonic mean is that of the averaged base and the averaged new. The first table is over all tasks,
the others over {small}.

`fast` takes larger steps for full prompts than for low-rank ones, and those than for quantized
ones (`train.fast.boost`): that is what ends at the training loss of CoOp's schedule. Where arms
differ in it, the table has CoOp with the smaller steps as well.

The benchmark is small and far from the papers': drawings, a tower of width 128 trained on drawings,
and captions that tell a little. What holds here need not hold for ViT-B/16 on photographs. The
template's word embeddings have a standard deviation of {std:.2f} (CLIP's: about 0.01), so the same
noise is smaller here.
"""


@dataclass(frozen=True)
class Arm:
    """What an arm reached: one value per seed, means over tasks, in percent."""

    size_bytes: int
    n_parameters: int
    base: list[float]
    new: list[float]

    @property
    def harmonic_mean(self) -> list[float]:
        """Of base and new, for every seed."""
        return [harmonic_mean(b, n) for b, n in zip(self.base, self.new, strict=True)]

    @property
    def cells(self) -> str:
        """Its row of a table."""
        sides = (self.base, self.new, self.harmonic_mean)
        accuracies = " | ".join(f"{mean(side):.1f} ± {stdev(side):.1f}" for side in sides)
        return f"{self.size_bytes:,} | {self.n_parameters:,} | {accuracies} |"


@dataclass(frozen=True)
class Claim:
    """A statement of a paper about two arms of a question.

    Attributes:
        says: the statement.
        question, first, second: the arms.
        side: base, new or harmonic_mean.
        relation: what the first is said to be, against the second.
    """

    says: str
    question: str
    first: str
    second: str
    side: str
    relation: Literal["higher", "lower", "equal", "not lower"]


CLAIMS = (
    Claim("RLP: rank 1 beats the full prompt", "rank", "rank 1", "full (CoOp)",
          "harmonic_mean", "higher"),
    Claim("the same, with CoOp's steps as small", "rank", "rank 1",
          "full, with the boost of low rank", "harmonic_mean", "higher"),
    Claim("RLP: dropout on the update helps (our reading)", "rank", "rank 1",
          "rank 1, no dropout", "harmonic_mean", "higher"),
    Claim("QPrompt: one bit protects new classes", "bits", "1 bit, QAT", "16 bits (CoOp)",
          "new", "higher"),
    Claim("the same, with CoOp's steps as small", "bits", "1 bit, QAT",
          "16 bits, with the boost of quantized", "new", "higher"),
    Claim("QPrompt: one bit is as good as four", "bits", "1 bit, QAT", "4 bits, QAT",
          "harmonic_mean", "not lower"),
    Claim("QPrompt: QAT beats PTQ", "bits", "1 bit, QAT", "1 bit, PTQ", "harmonic_mean", "higher"),
    Claim("QPrompt: normalization helps", "clustering", "1 bit, normalized, at every step",
          "1 bit, k-means at every step", "harmonic_mean", "higher"),
    Claim("QPrompt: adaptive clustering helps", "clustering", "1 bit, normalized and adaptive",
          "1 bit, normalized, at every step", "harmonic_mean", "higher"),
    Claim("QPrompt: noise of 0.001 does nothing", "noise", "noise 0.001", "none (CoOp)",
          "new", "equal"),
    Claim("QPrompt: noise of 0.01 helps new classes", "noise", "noise 0.01", "none (CoOp)",
          "new", "higher"),
    Claim("QPrompt: noise of 0.1 hurts", "noise", "noise 0.1", "none (CoOp)",
          "harmonic_mean", "lower"),
    Claim("Residual: better than the plain prompt at a high rate", "residual",
          "residual, lr 0.1", "coop, lr 0.1", "harmonic_mean", "higher"),
    Claim("Residual: two tokens lose little against 16", "length", "residual, 2 tokens",
          "residual, 16 tokens", "harmonic_mean", "not lower"),
    Claim("QPrompt: QMaPLe beats MaPLe on new classes", "towers", "QMaPLe", "MaPLe",
          "new", "higher"),
)  # fmt: skip


def read_arm(results: Results, settings: Settings, tasks: Sequence[str]) -> Arm:
    """Return what a configuration reached on some tasks."""
    found = [results[Unit(settings, task, "test").key] for task in tasks]
    base, new = (
        [100 * mean(values) for values in zip(*(r[f"test_{side}"] for r in found), strict=True)]
        for side in ("base", "new")
    )
    return Arm(found[0]["size_bytes"], found[0]["n_parameters"], base, new)


def difference(first: Arm, second: Arm, side: str) -> tuple[float, float]:
    """Return the mean difference over seeds, and twice its standard error (seeds are paired)."""
    pairs = zip(getattr(first, side), getattr(second, side), strict=True)
    differences = [a - b for a, b in pairs]
    return mean(differences), 2 * stdev(differences) / sqrt(len(differences))


def verdict(relation: str, found: float, noise: float) -> str:
    """Say whether a difference agrees with a claim."""
    agrees = {
        "higher": found > noise,
        "lower": found < -noise,
        "equal": abs(found) <= noise,
        "not lower": found >= -noise,
    }[relation]
    if agrees:
        return "agrees"
    return "no difference beyond noise" if abs(found) <= noise else "**does not agree**"


def claim_rows(results: Results) -> list[str]:
    """Return the table of the papers' statements."""
    rows = ["| the papers say | difference here | noise | |", "|---|---:|---:|---|"]
    for claim in CLAIMS:
        first, second = (
            read_arm(results, QUESTIONS[claim.question][name], SMALL)
            for name in (claim.first, claim.second)
        )
        found, noise = difference(first, second, claim.side)
        side = claim.side.replace("_", " ")
        rows.append(
            f"| {claim.says} | {found:+.1f} ({side}) | {noise:.1f} "
            f"| {verdict(claim.relation, found, noise)} |"
        )
    return rows


def robustness(results: Results) -> str:
    """Say how much a learning rate matters, with and without the residual network."""
    ranges = {}
    for method in ("coop", "residual"):
        names = [name for name in QUESTIONS["residual"] if name.startswith(f"{method},")]
        arms = [read_arm(results, QUESTIONS["residual"][name], SMALL) for name in names]
        ranges[method] = [mean(arm.harmonic_mean) for arm in arms]
    spans = {method: max(values) - min(values) for method, values in ranges.items()}
    agrees = "agrees" if spans["residual"] < spans["coop"] else "does **not** agree"
    return (
        "Over learning rates from 1e-4 to 1 the harmonic mean spans "
        f"{spans['residual']:.1f} points with the residual network and {spans['coop']:.1f} "
        f"without it. The paper calls the network robust to the learning rate: this {agrees}."
    )


def target(results: Results, chosen: dict[str, Settings], tasks: Sequence[str]) -> list[str]:
    """Say whether the small prompt reaches CoOp and QCoOp."""
    arms = {name: read_arm(results, settings, tasks) for name, settings in chosen.items()}
    small, sentences = arms["low_rank_quantized"], []
    for name in ("coop", "qcoop"):
        found, noise = difference(small, arms[name], "harmonic_mean")
        reached = "reaches" if found >= -noise else "does **not** reach"
        sentences.append(
            f"The low-rank quantized prompt of {small.size_bytes} bytes {reached} the harmonic "
            f"mean of {name} ({arms[name].size_bytes:,} bytes): {found:+.1f}, noise {noise:.1f}."
        )
    above = []
    for name, arm in arms.items():
        found, noise = difference(arm, arms["zero_shot"], "harmonic_mean")
        if found > noise:
            above.append(f"{name} ({found:+.1f}, noise {noise:.1f})")
    sentences.append(
        f"Above zero-shot in the harmonic mean, beyond noise: {'; '.join(above) or 'none'}. What "
        "a small learning rate, a low rank or few bits protect here, they protect by keeping the "
        "prompt near the template: less is gained on base classes, and less is lost on new ones."
    )
    return sentences


def selection(results: Results) -> list[str]:
    """Say whether validation with pseudo-new classes tells which configuration tests well."""
    drawn = swept_settings()
    arms = [read_arm(results, settings, SMALL) for settings in drawn]
    base_alone = [
        mean(mean(results[Unit(settings, task, "test").key]["val_base"]) for task in SMALL)
        for settings in drawn
    ]
    table = pd.DataFrame(
        {
            "pseudo": [score(results, settings) for settings in drawn],
            "base": base_alone,
            "test": [mean(arm.harmonic_mean) for arm in arms],
        }
    )
    ranks = table.corr(method="spearman")["test"]
    best = table["test"].max()
    rows = ["| chosen by | rank correlation | test harmonic mean of its choice | lost |"]
    rows.append("|---|---:|---:|---:|")
    names = {"pseudo": "validation, pseudo-new classes", "base": "validation, base classes alone"}
    for column, name in names.items():
        picked = table["test"][table[column].idxmax()]
        rows.append(f"| {name} | {ranks[column]:+.2f} | {picked:.1f} | {best - picked:.1f} |")
    lowest, average = table["test"].min(), table["test"].mean()
    return [
        f"{len(drawn)} configurations drawn from the sweep's space; their test harmonic means go "
        f"from {lowest:.1f} to {best:.1f}, {average:.1f} on average. Rank correlation (Spearman's) "
        "is with the test harmonic mean.\n",
        *rows,
    ]


def table(results: Results, arms: dict[str, Settings], tasks: Sequence[str]) -> list[str]:
    """Return the rows of one question."""
    rows = [f"| {COLUMNS}", RULE]
    return rows + [f"| {name} | {read_arm(results, s, tasks).cells}" for name, s in arms.items()]


def write_report(results: Results) -> None:
    """Write the page from what was measured."""
    tasks, chosen = load_params().tasks, chosen_settings(results)
    named = {
        f"{name}, lr {settings['train.lr']:g}" if "train.lr" in settings else name: settings
        for name, settings in chosen.items()
    }
    page = [
        INTRODUCTION.format(
            shots=SHOTS,
            seeds=len(SEEDS),
            small=", ".join(SMALL),
            std=load_task(SMALL[0], deep=False)[1].init_MD(4).std().item(),
        ),
        "## What agrees with the papers\n",
        *claim_rows(results),
        "",
        robustness(results),
        "\n## The methods\n",
        f"Each at the best of lr {', '.join(f'{lr:g}' for lr in LRS)}, chosen on validation images "
        "with half of the base classes as pseudo-new ones. All tasks.\n",
        *table(results, named, tasks),
        "",
        *target(results, chosen, tasks),
        "\n## Does selection work?\n",
        *selection(results),
    ]
    for question, arms in QUESTIONS.items():
        page += [f"\n## {TITLES[question]}\n", *table(results, arms, SMALL)]
    write_atomic(PAGE, lambda path: path.write_text("\n".join(page) + "\n"))
