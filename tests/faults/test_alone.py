"""Sweeps of one machine do not lean on each other's Ray."""

import tempfile

import psutil
import pytest

from tests.helpers.projects import REPOSITORY, Running

pytestmark = pytest.mark.faults
SCRIPT = """
import sys
import time
import ray
from pipeline.sweep.ray_cluster import cluster

with cluster():
    print("begun", flush=True)
    for _ in range(int(sys.argv[1])):
        time.sleep(1)
        print("computed", ray.get(ray.remote(lambda: 6 * 7).remote()), flush=True)
"""


def test_a_cluster_of_one_sweep_is_not_joined_by_another() -> None:
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # its sockets' paths must be short
        environment = {"RAY_ADDRESS": "", "RAY_TMPDIR": folder}  # where nobody ran `ray start`
        first = Running(REPOSITORY, "python", "-c", SCRIPT, "600", **environment)
        first.wait_for("computed 42")
        second = Running(REPOSITORY, "python", "-c", SCRIPT, "20", **environment)
        second.wait_for("begun")
        for process in psutil.Process(first.process.pid).children(recursive=True):
            process.kill()
        first.process.kill()
        assert second.end() == 0, second.output
        assert second.output.count("computed 42") == 20
