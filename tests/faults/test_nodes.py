"""A whole node dies: its trials go on elsewhere."""

import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from pipeline.clip.encoders import TextSide
from pipeline.features.task import TaskFeatures
from pipeline.sweep.ray_cluster import cluster
from pipeline.training.trial import Trial
from tests.helpers.projects import wait_until
from tests.helpers.records import ORIGIN
from tests.helpers.sweeps import FaultyJob, search, sweep, sweep_config

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
pytestmark = pytest.mark.faults
N_TRIALS = 8


def note_round(trial: Trial, seen: Path) -> None:
    """Note which trial begins which round on which node; take a moment for it."""
    name = f"{id_of(trial)}_{len(trial.history) + 1}_{ray.get_runtime_context().get_node_id()}"
    (seen / f"{time.time_ns()}_{name}").touch()
    time.sleep(0.5)


def id_of(trial: Trial) -> str:
    """Return what tells a trial from the others here."""
    replica = trial.runs[0].replicas[0]
    return f"{replica.prompt.config.rank}-{replica.prompt.config.bits}-{replica.lr:.6f}"


def rounds(seen: Path) -> dict[str, list[tuple[int, str]]]:
    """Return the rounds that began, with their nodes, by trial and in order of time."""
    found = defaultdict(list)
    for path in sorted(seen.iterdir()):
        _, trial, n_round, node = path.name.split("_")
        found[trial].append((int(n_round), node))
    return found


def test_trials_of_a_dead_node_go_on_elsewhere_from_their_last_round(
    text: TextSide, features: TaskFeatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "rounds"
    seen.mkdir()
    config = sweep_config(n_trials=N_TRIALS, max_failures=1)
    job = FaultyJob(text, [features], config, ORIGIN, partial(note_round, seen=seen))
    folder = tempfile.mkdtemp(prefix="lq-")  # its own: else all drivers of this machine join it
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder})
    try:
        workers = {node.node_id: node for node in (nodes.add_node(num_cpus=2) for _ in range(2))}
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        with cluster():

            def busy() -> list[str]:
                began = [r for found in rounds(seen).values() for r in found]
                return [node for n_round, node in began if n_round >= 3]

            def kill() -> None:
                wait_until(lambda: bool(busy()))
                nodes.remove_node(workers[busy()[0]], allow_graceful=False)

            killer = threading.Thread(target=kill)
            killer.start()
            study = search(tmp_path / "s.db", "nodes", config, rounds=6)
            finished, failed = sweep(study, job, tmp_path / "ray")
            killer.join()
    finally:
        nodes.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    assert not failed
    assert len(finished) == N_TRIALS
    assert all(len(record.history) == 6 for record in finished)
    moved = 0
    for began in rounds(seen).values():
        numbers = [n_round for n_round, _ in began]
        where = [node for _, node in began]
        again = len(numbers) - len(set(numbers))
        assert numbers == sorted(numbers), "no trial begins anew"
        assert set(numbers) == set(range(1, 7))
        if len(set(where)) > 1:
            moved += 1
            assert again <= 1, "only the round that was under way is trained again"
        else:
            assert again == 0
    assert moved >= 1, "the dead node had trials"
