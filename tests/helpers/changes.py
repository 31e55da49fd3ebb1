"""Changes that somebody may make to a project, each of one kind, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file, save_file

from tests.helpers.projects import edit_params


@dataclass(frozen=True)
class Change:
    """A change, and what must follow from it.

    Attributes:
        name: of the change.
        make: makes it in a project.
        outdated: stages whose own dependencies it changes.
        ran: stages that `dvc repro` runs, beside `sources`, which always runs.
        trains: whether trials are trained again, as another study.
        same: whether the test accuracies stay.
        new_version: whether a version is registered.
    """

    name: str
    make: Callable[[Path], None]
    outdated: str
    ran: str
    trains: bool = True
    same: bool = False
    new_version: bool = True


def params(**changes: object) -> Callable[[Path], None]:
    """Set parameters."""
    return lambda project: edit_params(project, **changes)


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    """Replace a piece of a file, which must have it."""

    def make(project: Path) -> None:
        path = project / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}: name another piece here"
        path.write_text(text.replace(old, new, 1))

    return make


def append(name: str, text: str) -> Callable[[Path], None]:
    """Append a line to a file."""

    def make(project: Path) -> None:
        path = project / name
        path.write_text(f"{path.read_text()}\n{text}\n")

    return make


def rename_class(project: Path) -> None:
    """Give a class of the embedded data another name."""
    path = project / "data/emoji.parquet"
    rows = pd.read_parquet(path)
    name = rows.loc[rows["group"] == "activities", "name"].iloc[0]
    rows["name"] = rows["name"].replace(name, f"brand new {name}")
    rows.to_parquet(path)


def scale_weights(project: Path) -> None:
    """Change the image tower of the embedded backbone."""
    path = project / "artifacts/pretrain/open_clip_model.safetensors"
    weights = load_file(path)
    weights["visual.proj"] = weights["visual.proj"].roll(1, dims=0)
    save_file(weights, path)


CODE = "sweep evaluate register report"
ALL = f"features {CODE}"
FIT = "pipeline/training/fit.py"
SIZES, RATES = "pipeline/prompts/quantizer.py", "pipeline/training/schedule.py"
TRIALS, TOWER = "pipeline/training/trial.py", "pipeline/clip/text/tower.py"
SENTENCES, PAGE = "pipeline/report/findings/sweep.py", "pipeline/report/templates/report.md.j2"
NOTHING = {"trains": False, "same": True, "new_version": False}
CHANGES = [
    Change("features.views", params(features__views=2), "features report", ALL),
    Change("features.crop_scale", params(features__crop_scale=[0.5, 0.6]), "features", ALL),
    Change("features.flip", params(features__flip=True), "features", ALL),
    Change(
        "features.on_bad_image",
        params(features__on_bad_image="lenient"),
        "features",
        ALL,
        same=True,
    ),
    Change("features.workers", params(features__workers=1), "", "", **NOTHING),
    Change("prompt.init", params(prompt__init="an icon of a"), "sweep evaluate report", CODE),
    Change("a class name", rename_class, "", f"prepare {ALL}"),
    Change("the backbone's weights", scale_weights, "features register report", ALL),
    Change("the loss", replace(FIT, "loss_SB.mean(dim=1)", "0.1 * loss_SB.mean(1)"), CODE, CODE),
    Change("the quantizer", replace(SIZES, "+ 0.5) / 2**bits", "+ 0.4) / 2**bits"), CODE, CODE),
    Change("the schedule", replace(RATES, "WARMUP_LR = 1e-5", "WARMUP_LR = 1e-3"), CODE, CODE),
    Change(
        "how names are tokenized",
        append("pipeline/clip/backbone.py", "NEW = 1"),
        CODE,
        CODE,
        same=True,
    ),
    Change("a text tower's code", append(TOWER, "NEW = 1"), CODE, CODE, same=True),
    Change(
        "the image encoder's code",
        append("pipeline/clip/images.py", "NEW = 1"),
        ALL,
        ALL,
        same=True,
    ),
    Change("a comment", append(FIT, "# A comment."), CODE, CODE, **NOTHING),
    Change("a docstring", replace(TRIALS, '"""', '"""In short: '), CODE, CODE, **NOTHING),
    Change(
        "the sampler",
        replace("pipeline/sweep/sampler.py", "STARTUP_TRIALS = 8", "STARTUP_TRIALS = 9"),
        "sweep report",
        "sweep report",
        **NOTHING,
    ),
    Change(
        "a sentence of the report",
        replace(SENTENCES, "ran to their end", "ran to the end"),
        "report",
        "report",
        **NOTHING,
    ),
    Change("a template", replace(PAGE, "# Loqua", "# All of Loqua"), "report", "report", **NOTHING),
]
