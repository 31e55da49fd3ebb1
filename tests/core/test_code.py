"""Code counts by meaning, and a module's imports are found wherever they are written."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core import code
from pipeline.core.code import code_identity, import_closure, imported, meaning

SOURCE = '''"""A module."""

RATE = 0.1
"""Of learning."""


class Empty(Exception):
    """Has only a docstring."""


def step(value, *, scale=2.0):
    """Take a step."""
    # why: the paper does
    if value:
        pass
    return (value - RATE * scale)
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""\n', ""),
        ('"""Of learning."""', "'''Of all learning.'''"),
        ('    """Has only a docstring."""', "    pass"),
        ('    """Take a step."""\n', ""),
        ("    # why: the paper does\n", "\n\n"),
        ("(value - RATE * scale)", "value - RATE*scale"),
        ("(value, *, scale=2.0)", "(\n    value,\n    *,\n    scale=2.0,\n)"),
        ("return", "'''Words.'''\n    return"),
    ],
)
def test_words_and_formatting_mean_nothing(old: str, new: str) -> None:
    assert old in SOURCE
    assert meaning(SOURCE.replace(old, new)) == meaning(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("scale=2.0", "scale=2"),
        ("scale=2.0", "scale=None"),
        ("value -", "value +"),
        ("Exception", "ValueError"),
        ("value, *, scale", "value, scale"),
        ("if value:", "if not value:"),
        ("return (value - RATE * scale)", "return None"),
        ("return (value - RATE * scale)", "return"),
    ],
)
def test_a_change_of_what_runs_is_a_change_of_meaning(old: str, new: str) -> None:
    assert old in SOURCE
    assert meaning(SOURCE.replace(old, new)) != meaning(SOURCE)


@pytest.mark.parametrize(
    "source", ["", "# nothing", "x = f'{a!r:>{n}}' 'b', b'\\xff'", "x = ..., 1j"]
)
def test_any_source_has_a_form(source: str) -> None:
    assert meaning(source) == meaning(source + "\n# a comment\n")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of a stage and three packages, in place of this one."""
    files = {
        "pipeline/__init__.py": "",
        "pipeline/low/__init__.py": "SIZE = 1",
        "pipeline/low/paths.py": "import os",
        "pipeline/high/__init__.py": "",
        "pipeline/high/fit.py": "from pipeline.low import paths",
        "pipeline/high/late.py": "def run():\n    import pipeline.high.fit\n",
        "stages/__init__.py": "",
        "stages/one.py": "from pipeline.high.late import run\nimport torch",
        "stages/other.py": "import stages.one",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    imported.cache_clear()
    yield tmp_path
    imported.cache_clear()


@pytest.mark.usefixtures("project")
def test_the_closure_follows_imports_at_any_depth_and_the_packages_around() -> None:
    assert import_closure(["stages.one"]) == [
        "pipeline",
        "pipeline.high",
        "pipeline.high.fit",
        "pipeline.high.late",
        "pipeline.low",
        "pipeline.low.paths",
        "stages",
        "stages.one",
    ]
    assert import_closure(["pipeline.low.paths"]) == [
        "pipeline",
        "pipeline.low",
        "pipeline.low.paths",
    ]


@pytest.mark.parametrize(
    ("name", "text", "same"),
    [
        ("pipeline/low/__init__.py", "SIZE = 1  # of a word", True),
        ("pipeline/low/__init__.py", "SIZE = 2", False),
        ("pipeline/low/paths.py", "import os\nHERE = os.curdir", False),
        ("stages/other.py", "SIZE = 2", True),
    ],
)
def test_an_identity_changes_with_the_meaning_of_what_is_reached(
    project: Path, name: str, text: str, same: bool
) -> None:
    before = code_identity(["stages.one"])
    (project / name).write_text(text)
    imported.cache_clear()
    assert (code_identity(["stages.one"]) == before) is same


def test_a_module_that_moves_changes_the_identity(project: Path) -> None:
    before = code_identity(["stages.one"])
    (project / "pipeline/low/paths.py").rename(project / "pipeline/low/places.py")
    (project / "pipeline/high/fit.py").write_text("from pipeline.low import places as paths")
    imported.cache_clear()
    assert code_identity(["stages.one"]) != before


def test_a_relative_import_is_refused(project: Path) -> None:
    (project / "pipeline/high/fit.py").write_text("from . import late")
    with pytest.raises(AssertionError, match="fit.py:1: a relative import"):
        import_closure(["pipeline.high.fit"])
