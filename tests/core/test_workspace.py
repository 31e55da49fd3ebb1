"""What belongs to the checkout stays there when DVC runs an experiment in a copy."""

import json
from pathlib import Path

import pytest

from pipeline.core.workspace import checkout, in_checkout, is_copy
from pipeline.data.datasets.files import listing_hash
from pipeline.tracking.config import TrackingConfig, tracking_uri
from tests.helpers.projects import REPOSITORY, run

COPY = ".dvc/tmp/exps"
SAY = (
    "import json, sys; sys.path.insert(0, {code!r})\n"
    "from pipeline.core.workspace import checkout, in_checkout\n"
    "found = {{'checkout': str(checkout()), 'ignored': in_checkout('pictures'),"
    " 'known': in_checkout('data')}}\n"
    "open('said.json', 'w').write(json.dumps(found))\n"
)
DVC_YAML = """
stages:
  say:
    cmd: python say.py
    params: [rank]
    metrics:
    - said.json:
        cache: false
"""


@pytest.mark.parametrize("queue", ["", "standalone/"])
@pytest.mark.parametrize("inside", ["", "/sub"])
def test_a_copy_knows_its_checkout(tmp_path: Path, queue: str, inside: str) -> None:
    copy = tmp_path / "loqua" / COPY / f"{queue}tmp1"
    (copy / ".dvc").mkdir(parents=True)
    folder = Path(f"{copy}{inside}")
    folder.mkdir(exist_ok=True)
    assert checkout(folder) == Path(f"{tmp_path}/loqua{inside}")


def test_a_checkout_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert checkout() == Path()
    assert not is_copy()
    assert in_checkout("pictures") == "pictures", "relative paths stay relative"
    assert in_checkout("/somewhere") == "/somewhere"


def test_an_experiment_in_a_copy_finds_its_checkout(tmp_path: Path) -> None:
    project = tmp_path / "loqua"
    for folder in ("pictures", "data"):
        (project / folder).mkdir(parents=True)
        (project / folder / "1.txt").write_text("x")
    (project / "say.py").write_text(SAY.format(code=str(REPOSITORY)))
    (project / "dvc.yaml").write_text(DVC_YAML)
    (project / "params.yaml").write_text("rank: 1\n")
    (project / ".gitignore").write_text("/pictures\n")
    run(project, "git", "init", "-q")
    run(project, "dvc", "init", "-q")
    run(project, "git", "add", "-A")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    run(project, "git", *identity, "commit", "-qm", "one")
    run(project, "dvc", "exp", "run", "--temp", "-S", "rank=2", "-n", "two", PYTHONPATH="")
    assert not (project / "said.json").exists(), "the experiment ran in a copy"
    [made] = run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    said = json.loads(run(project, "git", "show", f"{made}:said.json").stdout)
    assert said == {
        "checkout": str(project), "ignored": str(project / "pictures"), "known": "data"
    }  # fmt: skip


def test_runs_of_a_copy_go_to_the_checkouts_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "loqua" / COPY / "tmp1"
    (copy / ".dvc").mkdir(parents=True)
    config = TrackingConfig(uri=None, experiment="loqua")
    relative = "sqlite:///artifacts/state/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", relative)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(config, tmp_path) == relative
    monkeypatch.chdir(copy)
    there = f"sqlite:///{tmp_path}/loqua/artifacts/state/mlflow.db"
    assert tracking_uri(config, tmp_path) == there
    for uri in ("sqlite:////somewhere/mlflow.db", "http://127.0.0.1:5000", "sqlite:///"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert tracking_uri(config, tmp_path) == uri


def test_own_data_have_the_same_hash_wherever_they_lie(tmp_path: Path) -> None:
    picture = tmp_path / "a" / "pets" / "cat.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"cat")
    before = listing_hash([picture], tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = tmp_path / "b" / "pets" / "cat.png"
    assert listing_hash([moved], tmp_path / "b") == before
    moved.write_bytes(b"another cat")
    assert listing_hash([moved], tmp_path / "b") != before
