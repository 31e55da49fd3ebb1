"""A version's hash changes with what it predicts, and with nothing else."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import code
from pipeline.prompts.file import load_prompt, save_prompt
from pipeline.registry.release import EXEMPT, SERVED, content_hash
from tests.helpers.registry_world import ROLES, World


def test_provenance_of_a_prompt_is_no_content_and_its_values_are(
    world: World, tmp_path: Path
) -> None:
    release = world.releases[ROLES[0]]
    prompts = {task: tmp_path / path.name for task, path in release.prompts.items()}
    for task, path in release.prompts.items():
        prompt, about = load_prompt(path)
        later = {**about, "git_commit": "e" * 40, "code": "f" * 64}
        save_prompt(prompts[task], prompt, release.fingerprint, later)
    again = replace(release, prompts=prompts)
    assert content_hash(again) == content_hash(release)
    task = next(iter(prompts))
    prompt, about = load_prompt(world.releases[ROLES[1]].prompts[task])
    save_prompt(prompts[task], prompt, release.fingerprint, about)
    assert content_hash(again) != content_hash(release)


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("serving/predictor.py", "TOP = 5", "TOP = 6", True),
        ("clip/similarity.py", "logit_scale *", "2 * logit_scale *", True),
        ("serving/predictor.py", "TOP = 5", "TOP = 5  # the best five", False),
        ("serving/guard.py", "\n\nimport", "\n\nLIMIT = 1\nimport", False),
        ("prompts/quantizer.py", "1e-12", "1e-11", False),
        ("training/fit.py", "import torch\n", "import torch\n\nA = 1\n", False),
    ],
)
def test_code_counts_if_it_can_change_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, changes: bool
) -> None:
    before = code.code_identity([SERVED], EXEMPT)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(code.ROOT / "pipeline", tmp_path / "pipeline", ignore=ignored)
    edited = tmp_path / "pipeline" / file
    text = edited.read_text()
    assert old in text
    edited.write_text(text.replace(old, new, 1))
    monkeypatch.setattr(code, "ROOT", tmp_path)
    code.imported.cache_clear()
    try:
        assert (code.code_identity([SERVED], EXEMPT) != before) is changes
    finally:
        code.imported.cache_clear()
