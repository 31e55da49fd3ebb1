"""State that two sides write in turn: a handover never overwrites a change."""

import itertools
from pathlib import Path

import pytest

from pipeline.sweep.state_sync import record, take_over


def write(folder: Path, name: str, text: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if text is not None:
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("before", "here", "there"), itertools.product([None, "a"], [None, "a", "b"], [None, "a", "c"])
)
def test_every_case_of_one_file(
    tmp_path: Path, before: str | None, here: str | None, there: str | None
) -> None:
    ours, theirs, known = tmp_path / "ours", tmp_path / "theirs", tmp_path / "known.json"
    write(ours, "study.db", before)
    if before is not None:
        record(ours, known)
        (ours / "study.db").unlink()
    write(ours, "study.db", here)
    write(theirs, "study.db", there)
    changed_here = here not in (None, before)
    changed_there = there not in (None, before)
    if changed_here and changed_there and here != there:
        with pytest.raises(ValueError, match=r"changed here and on the cluster.*\n.*study\.db"):
            take_over(theirs, ours, known)
        assert (ours / "study.db").read_text() == here
        return
    take_over(theirs, ours, known)
    expected = there if changed_there or here is None else here
    found = (ours / "study.db").read_text() if (ours / "study.db").exists() else None
    assert found == expected


def test_turns_are_taken_without_clocks(tmp_path: Path) -> None:
    ours, theirs, known = tmp_path / "ours", tmp_path / "theirs", tmp_path / "known.json"
    write(ours / "deep", "runs.db", "1")
    record(ours, known)
    for turn in ("2", "3", "4"):
        write(theirs / "deep", "runs.db", turn)
        (theirs / "deep" / "runs.db").touch()
        take_over(theirs, ours, known)
        assert (ours / "deep" / "runs.db").read_text() == turn
    write(ours / "deep", "runs.db", "mine")
    take_over(theirs, ours, known)
    assert (ours / "deep" / "runs.db").read_text() == "mine", "they did not change it since"


def test_a_conflict_copies_nothing(tmp_path: Path) -> None:
    ours, theirs, known = tmp_path / "ours", tmp_path / "theirs", tmp_path / "known.json"
    write(ours, "b.db", "mine")
    write(theirs, "b.db", "theirs")
    write(theirs, "a.db", "new")
    with pytest.raises(ValueError, match="b.db"):
        take_over(theirs, ours, known)
    assert not (ours / "a.db").exists()
    assert not known.exists()
