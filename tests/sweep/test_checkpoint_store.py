"""The vault keeps what a dead worker knew."""

from collections.abc import Iterator

import pytest
import ray

from pipeline.sweep.checkpoint_store import Shelf, Vault
from pipeline.sweep.ray_cluster import cluster


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault]:
    with cluster():
        yield Vault()


def test_the_last_checkpoint_of_every_trial_is_kept() -> None:
    shelf = Shelf()
    assert shelf.last(1) is None
    for data in (b"first", b"second"):
        shelf.keep(1, data)
    shelf.keep(2, b"other")
    assert (shelf.last(1), shelf.last(2)) == (b"second", b"other")
    shelf.drop(1)
    shelf.drop(7)
    assert shelf.last(1) is None
    assert shelf.n_held() == 1


def test_a_round_hangs_if_it_began_long_ago_and_did_not_end() -> None:
    shelf = Shelf()
    assert shelf.hung(1, 0.0) is None, "it did not begin"
    shelf.begin(1)
    assert shelf.hung(1, 3600.0) is None, "it may yet end"
    assert shelf.hung(1, 0.0) == "", "nobody said where"
    shelf.hangs(1, "there")
    assert shelf.hung(1, 3600.0) == "there"
    shelf.begin(1)
    assert shelf.hung(1, 3600.0) is None, "another worker tries"
    shelf.hangs(1, "there")
    shelf.keep(1, b"x")
    assert shelf.hung(1, 0.0) is None, "it ended"
    shelf.hangs(1, "there")
    shelf.drop(1)
    assert shelf.n_held() == 0


def test_what_another_process_left_is_there_after_its_death(vault: Vault) -> None:
    @ray.remote(max_retries=0)
    def leave_and_die(vault: Vault) -> None:
        import os

        vault.begin(5)
        vault.keep(5, bytes(range(256)) * 1000)
        vault.begin(5)
        vault.hangs(5, "there")
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(leave_and_die.remote(vault))
    assert vault.last(5) == bytes(range(256)) * 1000
    assert vault.hung(5, 0.0) == "there"
    vault.drop(5)
    assert vault.last(5) is None
    assert vault.n_held() == 0


def test_a_closed_vault_is_gone(vault: Vault) -> None:
    other = Vault()
    other.close()
    with pytest.raises(ray.exceptions.RayActorError):
        other.n_held()
    assert vault.n_held() == 0
