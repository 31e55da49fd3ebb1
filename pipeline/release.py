"""What becomes one version of a registered model: its files, its tags, its hash.

A release holds the prompts of all tasks of one role. Nothing here knows MLflow.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from pipeline.backbone import BackboneConfig
from pipeline.packed_prompt import load_prompt
from pipeline.provenance import file_hash, git_commit, value_hash

ROLES = ("champion", "compact")
PACKAGE = Path(__file__).parent
REQUIREMENTS = (
    "mlflow",
    "torch",
    "torchvision",
    "open_clip_torch",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "safetensors",
)


@dataclass(frozen=True)
class Release:
    """What becomes one version.

    Attributes:
        role: and alias: champion or compact.
        study: the sweep that chose it.
        seed: of all its prompts. It must be fixed before any test image is seen.
        prompts: the file of each task; the first task is the model's default.
        backbone: a folder travels with the model, a name only as a name.
        fingerprint: of the backbone.
        data_hash: of all tasks.
    """

    role: str
    study: str
    seed: int
    prompts: dict[str, Path]
    backbone: BackboneConfig
    fingerprint: str
    data_hash: str

    @property
    def backbone_folder(self) -> Path | None:
        """The backbone's folder, or None if it is a name."""
        folder = Path(self.backbone.name)
        return folder if folder.is_dir() else None

    @property
    def about(self) -> dict[str, Any]:
        """The model's `model.json`."""
        return {
            "role": self.role,
            "study": self.study,
            "seed": self.seed,
            "tasks": list(self.prompts),
            "backbone": {"name": self.backbone.name, "pretrained": self.backbone.pretrained},
            "data_hash": self.data_hash,
        }


def load_abouts(release: Release) -> dict[str, dict[str, Any]]:
    """Return each prompt's description.

    Raises:
        ValueError: if a file is missing, or is not of this role, task, seed and backbone.
    """
    abouts: dict[str, dict[str, Any]] = {}
    for task, path in release.prompts.items():
        _, abouts[task] = load_prompt(path, release.fingerprint)
        found = tuple(abouts[task].get(key) for key in ("method", "task", "seed"))
        if found != (release.role, task, release.seed):
            raise ValueError(
                f"{path}: found {found}; allowed is "
                f"{(release.role, task, release.seed)}; run `dvc repro evaluate`"
            )
    return abouts


def version_tags(release: Release, abouts: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what a version says of itself.

    Scores are test accuracies in [0, 1] of the registered seed, mean over tasks; `size_bytes` is
    the learned state of one task's prompt, and `file_bytes` its whole file, each the largest if
    they differ.
    """
    first = next(iter(abouts.values()))
    settings = first["settings"]["prompt"]
    scores = {
        name: f"{mean(about['scores'][name] for about in abouts.values()):.6f}"
        for name in first["scores"]
    }
    return {
        "role": release.role,
        "study": release.study,
        "seed": str(release.seed),
        **{key: str(settings[key]) for key in ("rank", "bits", "n_ctx")},
        "size_bytes": str(max(about["size_bytes"] for about in abouts.values())),
        "file_bytes": str(max(path.stat().st_size for path in release.prompts.values())),
        **scores,
        "data_hash": release.data_hash,
        "backbone": release.fingerprint,
        "git_commit": git_commit(),
    }


def requirements() -> list[str]:
    """Return the packages that a model needs, with the versions in use."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def served_modules() -> list[str]:
    """Return the modules of this package that `served_model.py` imports, itself, and theirs."""
    found, todo = {"__init__"}, ["served_model"]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                package, _, module = node.module.partition(".")
                todo += [module] if package == PACKAGE.name else []
    return sorted(found)


def contents(release: Release) -> dict[str, Path]:
    """Return the files that the model is made of, by their place in it."""
    files = {f"prompts/{task}.prompt": path for task, path in release.prompts.items()}
    files |= {f"code/{PACKAGE.name}/{name}.py": PACKAGE / f"{name}.py" for name in served_modules()}
    folder = release.backbone_folder
    for path in sorted(folder.rglob("*")) if folder else []:
        place = path.relative_to(folder or "")
        if path.is_file() and not any(part.startswith(".") for part in place.parts):
            files[f"backbone/{place.as_posix()}"] = path
    return files


def content_hash(release: Release) -> str:
    """Return the SHA-256 of all that the model is made of: files, description, packages."""
    hashes = {place: file_hash(path) for place, path in contents(release).items()}
    return value_hash([release.about, hashes, requirements()])
