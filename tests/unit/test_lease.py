"""Leases: one works at a time; a dead holder is replaced, a live one is not."""

from __future__ import annotations

import json
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from pipelines import lease
from pipelines.errors import LeaseHeld
from pipelines.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path}")


def test_a_held_lease_keeps_others_out_until_it_is_released(store: Store) -> None:
    with (
        lease.hold(store, "k", ttl_seconds=5),
        pytest.raises(LeaseHeld, match="is held by process"),
        lease.hold(store, "k", wait_seconds=0),
    ):
        pytest.fail("two holders")
    with lease.hold(store, "k", wait_seconds=0):
        pass
    assert store.read("leases/k.json") is None


def test_a_waiting_process_goes_on_when_the_lease_is_free(store: Store) -> None:
    order: list[str] = []
    entered = threading.Event()

    def second() -> None:
        entered.set()
        with lease.hold(store, "k", ttl_seconds=1):
            order.append("second")

    with lease.hold(store, "k", ttl_seconds=1):
        waiter = threading.Thread(target=second)
        waiter.start()
        entered.wait(5)
        order.append("first")
    waiter.join(10)
    assert order == ["first", "second"]


def test_whoever_writes_meets_no_folder_that_goes_with_its_last_object(store: Store) -> None:
    def write_and_delete(thread: int) -> None:
        for _ in range(100):
            assert store.create(f"leases/{thread}.json", b"")
            store.put(f"leases/{thread}.json", b"x")
            store.delete(f"leases/{thread}.json")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write_and_delete, range(4)))
    assert store.list("leases") == []


def _hold_and_die(url: str) -> None:
    import os

    held = lease.hold(Store(url), "k", ttl_seconds=600)
    held.__enter__()
    os._exit(9)


def test_a_dead_holder_on_this_machine_is_replaced_at_once(store: Store) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_hold_and_die, args=(store.url,))
    process.start()
    process.join(30)
    assert store.read("leases/k.json") is not None
    with lease.hold(store, "k", wait_seconds=0):
        pass


def test_a_silent_holder_on_another_machine_is_replaced_after_the_ttl(store: Store) -> None:
    content = {"token": "t", "beats": 1, "host": "elsewhere", "boot": 0.0, "pid": 1, "started": 0.0}
    store.put("leases/k.json", json.dumps(content).encode())
    with pytest.raises(LeaseHeld, match="on elsewhere"), lease.hold(store, "k", ttl_seconds=60, wait_seconds=0.3):
        pytest.fail("taken too early")
    with lease.hold(store, "k", ttl_seconds=0.3, wait_seconds=30):
        held = json.loads(store.read("leases/k.json") or b"{}")
        assert held["pid"] == psutil.Process().pid


def test_a_holder_that_beats_is_never_replaced(store: Store) -> None:
    with lease.hold(store, "k", ttl_seconds=0.5):
        content = json.loads(store.read("leases/k.json") or b"{}")
        store_of_rival = Store(store.url)
        with pytest.raises(LeaseHeld), lease.hold(store_of_rival, "k", ttl_seconds=0.5, wait_seconds=2):
            pytest.fail("a live holder was replaced")
        assert json.loads(store.read("leases/k.json") or b"{}")["beats"] > content["beats"]
