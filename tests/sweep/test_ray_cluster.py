"""Which cluster is joined, what it listens on, and trials on several real Ray nodes."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray import cloudpickle
from ray.cluster_utils import Cluster

from pipeline.clip.encoders import TextSide
from pipeline.core.device import usable_device
from pipeline.features.task import TaskFeatures
from pipeline.prompts.config import PromptConfig
from pipeline.sweep.driver import SweepJob, run_sweep
from pipeline.sweep.ray_cluster import (
    check_resources,
    cluster,
    cluster_resources,
    known_address,
    map_parallel,
    waiting_trials,
)
from pipeline.sweep.study import Range, Search, SweepConfig
from pipeline.training.config import TrainConfig
from pipeline.training.records import TrialRecord
from tests.helpers.toy import train_config

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test


class Ended:
    """Gathers how trials ended."""

    def __init__(self) -> None:
        self.finished: list[TrialRecord] = []
        self.failed: dict[int, str] = {}
        self.on_finished = self.on_pruned = self.finished.append
        self.on_failed = self.failed.__setitem__


TRAIN = train_config(4, rounds=2)
Configuration = tuple[PromptConfig, TrainConfig]


def meeting(settings: dict[str, Any], folder: Path, guests: int) -> Configuration:
    """Let every worker leave a note and wait, in its first round, until so many have left one."""
    context = ray.get_runtime_context()
    if context.get_actor_id() is not None:
        from pipeline.training.trial import Trial

        plain, note = Trial.run_round, folder / str(os.getpid())

        def meet(self: Trial) -> dict[str, float]:
            note.write_text(f"{context.get_node_id()} {ray.get_gpu_ids()}")
            deadline = time.monotonic() + 600
            while len(list(folder.iterdir())) < guests:
                assert time.monotonic() < deadline, f"alone on {note.read_text()}"
                time.sleep(0.05)
            Trial.run_round = plain  # type: ignore[method-assign]  # this worker's own
            return plain(self)

        Trial.run_round = meet  # type: ignore[method-assign]  # this worker's own
    prompt = PromptConfig(init="a photo of a", rank=1, bits=1, n_ctx=2)
    return prompt, TRAIN.model_copy(update={"lr": settings["train.lr"]})


def sweep_job(text: TextSide, features: TaskFeatures, folder: Path, **changes: Any) -> SweepJob:
    """A job whose workers meet in a folder; `guests` is how many must."""
    folder.mkdir()
    guests = changes.pop("guests")
    config = SweepConfig(
        tasks=["toy"], shots=2, seeds=[1], n_trials=guests, sampler_seed=3, first=[],
        space={"train.lr": Range(low=0.01, high=1.0, log=True)},
        cpus_per_trial=1, gpus_per_trial=0, max_failures=0,
    )  # fmt: skip
    resolve = partial(meeting, folder=folder, guests=guests)
    return SweepJob(text, [features], resolve, dict, config.model_copy(update=changes))


# The first test: the nodes that the others share are not started yet.
def test_local_cluster_listens_on_loopback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with cluster():
        assert dict(map_parallel(lambda _, item: item, [7], None, 1, 0)) == {0: 7}
        me = psutil.Process()
        sockets = [
            (process.name(), connection.laddr.ip)
            for process in [me, *me.children(recursive=True)]
            for connection in process.net_connections(kind="inet")
            if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)  # NONE: UDP
        ]
        assert {"gcs_server", "raylet"} <= {name for name, _ in sockets}
        outside = [(name, ip) for name, ip in sockets if not is_loopback(ip)]
        assert not outside
        with pytest.raises(ValueError, match=r"a trial wants 1 CPU\(s\) and 3 GPU\(s\)"):
            check_resources(1, 3)


def is_loopback(ip: str) -> bool:
    address = ip_address(ip)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """Three Ray nodes of one CPU; the last declares a GPU. The driver has joined them."""
    folder = tempfile.mkdtemp(prefix="lq-")  # its own: else all drivers of this machine join it
    head = {"temp_dir": folder, "include_dashboard": False, "num_cpus": 1, "num_gpus": 0}
    started = Cluster(
        initialize_head=True, head_node_args={**head, "object_store_memory": 100 * 2**20}
    )
    started.add_node(num_cpus=1, num_gpus=0, object_store_memory=100 * 2**20)
    with pytest.MonkeyPatch.context() as declared:
        declared.setenv("CUDA_VISIBLE_DEVICES", "0")  # Ray believes it, torch looks
        started.add_node(num_cpus=1, num_gpus=1, object_store_memory=100 * 2**20)
    try:
        with pytest.MonkeyPatch.context() as known:
            known.setenv("RAY_ADDRESS", started.address)
            with cluster():
                yield started
    finally:
        started.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def test_trials_run_on_all_nodes_at_once(
    nodes: Cluster, text: TextSide, features: TaskFeatures, tmp_path: Path
) -> None:
    assert cluster_resources() == "3 node(s), 3 CPUs, 1 GPUs"
    assert os.environ["RAY_ADDRESS"] == nodes.address
    job = sweep_job(text, features, tmp_path / "notes", guests=3)
    ended = Ended()
    run_sweep(Search(tmp_path / "s.db", "nodes", job.sweep), job, tmp_path / "ray", ended)
    assert not ended.failed
    assert len(ended.finished) == 3
    met = {path.read_text().split()[0] for path in (tmp_path / "notes").iterdir()}
    assert met == {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def test_two_trials_share_a_gpu_and_no_third(
    nodes: Cluster, text: TextSide, features: TaskFeatures, tmp_path: Path
) -> None:
    job = sweep_job(
        text, features, tmp_path / "notes", guests=2,
        cpus_per_trial=0.25, gpus_per_trial=0.5, n_trials=6,
    )  # fmt: skip
    ended = Ended()
    run_sweep(Search(tmp_path / "s.db", "gpus", job.sweep), job, tmp_path / "ray", ended)
    assert nodes.address
    assert not ended.failed, "torch sees no GPU here, and that is no crash"
    assert len(ended.finished) == 6
    notes = [path.read_text() for path in (tmp_path / "notes").iterdir()]
    assert len(notes) == 2, "four would fit by their CPUs"
    [gpu_node] = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("GPU")]
    assert set(notes) == {f"{gpu_node} ['0']"}


def test_workers_run_the_drivers_code(nodes: Cluster) -> None:
    def where(_: None, module: str) -> str:
        return str(import_module(module).__file__)

    assert nodes.address
    [(_, found)] = map_parallel(where, ["pipeline"], None, 1, 0)
    assert "runtime_resources" in found, "a copy that travelled with the driver, not an old install"


def test_nodes_come_for_several_waiting_trials(
    nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nodes.address
    assert [waiting_trials(n) for n in (1, 24, 128, 10**5)] == [1, 3, 16, 16]
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert waiting_trials(10**5) == 1


def test_what_cannot_fit_waits_on_a_cluster(nodes: Cluster) -> None:
    assert nodes.address
    assert check_resources(1, 0.5) is None
    assert check_resources(1, 1) is None
    assert "waiting" in str(check_resources(1, 2))
    with pytest.raises(ValueError, match=r"gpus_per_trial: found 1.5"):
        check_resources(1, 1.5)


def test_address_that_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert known_address() is None
    monkeypatch.setenv("RAY_ADDRESS", "10.1.2.3:6379")
    assert known_address() == "10.1.2.3:6379"
    for wrong in ("ray://10.1.2.3:10001", "10.1.2.3"):
        monkeypatch.setenv("RAY_ADDRESS", wrong)
        with pytest.raises(ValueError, match=r"RAY_ADDRESS: found .*; allowed is host:port"):
            known_address()


def test_machine_that_ray_start_put_into_a_cluster_joins_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    note = tmp_path / "ray_current_cluster"  # what `ray start` leaves
    monkeypatch.setattr("ray._private.utils.get_ray_address_file", lambda _: str(note))
    assert known_address() is None, "a cluster that another program started is none of ours"
    note.write_text("10.1.2.3:6379")
    assert known_address() == "10.1.2.3:6379"


def test_device_follows_what_torch_sees(caplog: pytest.LogCaptureFixture) -> None:
    assert usable_device(0).type == "cpu"
    assert not caplog.records
    assert usable_device(0.5).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert bool(caplog.records) == (not torch.cuda.is_available())
