"""How machines that train together find each other, over a real network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.store import Store
from pipelines.training import nodes
from pipelines.training.nodes import Meeting, Place

FIRST = Place(num_nodes=2, node_rank=0, address="127.0.0.1")
SECOND = Place(num_nodes=2, node_rank=1, address="127.0.0.1", first_node="train-0.train.invalid")
NOTICE, RECEIPT = "runs/m/r/train/1.meeting.json", "runs/m/r/train/1.json"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(nodes, "_POLL_SECONDS", 0.01)
    return Store(f"file://{tmp_path}")


@pytest.fixture
def unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no name be known, as where there is no name server."""

    def ask(address: tuple[str, int], timeout: float) -> socket.socket:
        if not address[0][0].isdigit():
            raise socket.gaierror("Name or service not known")
        return connect(address, timeout=timeout)

    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", ask)


def meeting(store: Store) -> Meeting:
    return Meeting(store, notice_uri=NOTICE, receipt_uri=RECEIPT)


class Listener:
    """A first machine whose torchrun listens."""

    def __init__(self, store: Store) -> None:
        self.place = meeting(store).announce(FIRST)
        host, _, port = self.place.endpoint.partition(":")
        self.server = socket.create_server((host, int(port)))


@pytest.fixture
def first(store: Store) -> Iterator[Listener]:
    made = Listener(store)
    yield made
    made.server.close()


@pytest.mark.usefixtures("unresolved")
def test_without_a_name_server_the_address_in_the_store_is_enough(store: Store, first: Listener) -> None:
    found = meeting(store).wait(SECOND)
    assert found == SECOND.model_copy(update={"endpoint": first.place.endpoint})


def test_a_name_that_is_known_comes_first(store: Store, first: Listener) -> None:
    named = SECOND.model_copy(update={"first_node": "localhost"})
    found = meeting(store).wait(named)
    assert found is not None
    assert found.endpoint == f"localhost:{first.place.endpoint.partition(':')[2]}"


@pytest.mark.usefixtures("unresolved")
def test_a_first_machine_that_does_not_listen_yet_is_waited_for(store: Store) -> None:
    announced = meeting(store).announce(FIRST)
    found: list[Place | None] = []
    waiting = threading.Thread(target=lambda: found.append(meeting(store).wait(SECOND)))
    waiting.start()
    host, _, port = announced.endpoint.partition(":")
    with socket.create_server((host, int(port))):
        waiting.join(timeout=60)
    assert [place.endpoint for place in found if place] == [announced.endpoint]


@pytest.mark.usefixtures("unresolved")
def test_the_same_start_is_joined_once_and_the_next_one_too(store: Store, first: Listener) -> None:
    joining = meeting(store)
    assert joining.wait(SECOND) is not None
    found: list[Place | None] = []
    waiting = threading.Thread(target=lambda: found.append(joining.wait(SECOND)))
    waiting.start()
    again = Listener(store)
    waiting.join(timeout=60)
    again.server.close()
    assert [place.endpoint for place in found if place] == [again.place.endpoint]


def test_with_the_receipt_there_is_nothing_left_to_do(store: Store) -> None:
    store.put(RECEIPT, b"{}")
    assert meeting(store).wait(SECOND) is None
