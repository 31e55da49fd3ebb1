"""What names a study: everything that its trials depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.core.code import code_identity
from pipeline.core.hashes import value_hash
from pipeline.core.provenance import checkout_id, git_commit, versions
from pipeline.core.settings import flatten
from pipeline.sweep.config import SweepConfig
from pipeline.training.settings import Resolver

MAKERS = ("pipeline.sweep.trainable", "pipeline.training.inputs")
"""The modules that make a trial's record: the worker, and what loads the backbone and the features
that workers get."""
EXEMPT = {
    "pipeline.sweep.trainable": "moves trials between Ray and their code",
    "pipeline.training.checkpoint": "a resumed trial is equal to the last bit (a test)",
    "pipeline.training.records": "the form of a record, not its numbers",
    "pipeline.core.provenance": "hashes and versions of files and code",
    "pipeline.core.code": "hashes of code",
    "pipeline.core.hashes": "hashes of files",
    "pipeline.core.files": "how files are written",
    "pipeline.core.paths": "names of files",
    "pipeline.core.workspace": "names of folders",
    "pipeline.core.errors": "messages",
    "pipeline.core.timeout": "ends a worker that hangs",
    "pipeline.core.config": "checks of settings, which count by value",
    "pipeline.core.settings": "the same",
    "pipeline.sweep.config": "the same",
}
"""Modules that the makers import and that cannot change a number, with the reason."""
NOT_SEARCHED = ("n_trials", "preset")
"""Settings of the sweep that change no trial: more trials continue a study, and a preset is the
same study as its settings written by hand."""


@dataclass(frozen=True)
class Identity:
    """Everything that a study's trials depend on.

    Attributes:
        settings: by dotted name. What the sweep searches counts by its axis alone, since every
            trial sets its own value.
        features: hash of their content.
        towers: fingerprint of the backbone.
        code: identity of the code that trains and measures.
    """

    settings: dict[str, Any]
    features: str
    towers: str
    code: str

    @property
    def name(self) -> str:
        """The study's name: of these inputs in this checkout."""
        return f"sweep-{value_hash(asdict(self))[:12]}-{checkout_id()}"

    def differences(self, other: Identity) -> list[str]:
        """Return in what another study differs, apart from its code: a line each."""
        theirs, ours = other.settings, self.settings
        problems = [
            f"{name}: got {theirs.get(name)!r}; expected {ours.get(name)!r}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]
        for name in ("features", "towers"):
            got, expected = getattr(other, name), getattr(self, name)
            if got != expected:
                problems.append(f"{name}: got {got[:12]}; expected {expected[:12]}")
        return problems


def trial_code() -> str:
    """Return the identity of the code that trains and measures a trial."""
    return code_identity(MAKERS, EXEMPT)


def identify(sweep: SweepConfig, resolver: Resolver, features: str, towers: str) -> Identity:
    """Return what names the study of these settings and hashes, and of the code at hand."""
    settings = flatten(
        {
            "sweep": sweep.model_dump(mode="json", exclude=set(NOT_SEARCHED)),
            "prompt": resolver.prompt.model_dump(mode="json"),
            "train": resolver.train.model_dump(mode="json"),
            "method": resolver.method,
            "methods": resolver.methods,
        }
    )
    for name in sweep.space:
        settings.pop(name, None)
    return Identity(settings, features, towers, trial_code())


def study_tags(identity: Identity, sweep: SweepConfig, data_hash: str) -> dict[str, str]:
    """Return the tags of a study that begins now, which it keeps."""
    return {
        "git_commit": git_commit(),
        "code": identity.code,
        "data_hash": data_hash,
        "features": identity.features,
        "backbone": identity.towers,
        "seeds": str(sweep.seeds),
        "sampler_seed": str(sweep.sampler_seed),
        "preset": sweep.preset,
        **{f"version.{package}": found for package, found in versions().items()},
    }
