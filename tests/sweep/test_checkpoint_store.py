"""The checkpoint store keeps what a dead worker knew."""

from collections.abc import Iterator
from typing import Any

import pytest
import ray

from pipeline.sweep.checkpoint_store import CheckpointStore, open_store
from pipeline.sweep.ray_cluster import cluster


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    with cluster():
        yield open_store()


def test_the_last_checkpoint_of_every_trial_is_kept() -> None:
    store = CheckpointStore()
    assert store.last(1) is None
    for data in (b"first", b"second"):
        store.put(1, data)
    store.put(2, b"other")
    assert (store.last(1), store.last(2)) == (b"second", b"other")
    store.drop(1)
    store.drop(7)
    assert store.last(1) is None
    assert store.size() == 1


def test_a_round_hangs_if_it_began_long_ago_and_did_not_end() -> None:
    store = CheckpointStore()
    assert store.hung(1, 0.0) is None, "it did not begin"
    store.begin(1)
    assert store.hung(1, 3600.0) is None, "it may yet end"
    assert store.hung(1, 0.0) == "", "nobody reported the place"
    store.report_hang(1, "there")
    assert store.hung(1, 3600.0) == "there"
    store.begin(1)
    assert store.hung(1, 3600.0) is None, "another worker tries"
    store.report_hang(1, "there")
    store.put(1, b"x")
    assert store.hung(1, 0.0) is None, "it ended"
    store.report_hang(1, "there")
    store.drop(1)
    assert store.size() == 0


def test_what_another_process_put_in_is_there_after_its_death(store: Any) -> None:
    @ray.remote(max_retries=0)
    def put_and_die(store: Any) -> None:
        import os

        store.begin.remote(5)
        ray.get(store.put.remote(5, bytes(range(256)) * 1000))
        store.begin.remote(5)
        ray.get(store.report_hang.remote(5, "there"))
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(put_and_die.remote(store))
    assert ray.get(store.last.remote(5)) == bytes(range(256)) * 1000
    assert ray.get(store.hung.remote(5, 0.0)) == "there"
    store.drop.remote(5)
    assert ray.get(store.last.remote(5)) is None
    assert ray.get(store.size.remote()) == 0
