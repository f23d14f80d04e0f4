"""Several machines that train together: which of them this is, and how they find the first one.

The first one says in the store where it listens, for it knows its address only once it runs, and has another one when
its pod was replaced. So nothing but the store is needed: no name server, no right to ask the cluster.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import uuid
from collections.abc import Mapping
from typing import Self

from pydantic import Field

from pipelines.spec import Frozen
from pipelines.store import Store

logger = logging.getLogger(__name__)

RANK = "JOB_COMPLETION_INDEX"
"""Variable that Kubernetes gives to each pod of an Indexed Job."""

NODES = "SLIPWAY_NODES"
FIRST_NODE = "SLIPWAY_FIRST_NODE"
ADDRESS = "SLIPWAY_NODE_ADDRESS"
"""Variables that the Job's manifest gives to each pod."""

_POLL_SECONDS = 1.0
_CONNECT_SECONDS = 2.0


class Place(Frozen):
    """One machine among those of a training."""

    num_nodes: int = Field(default=1, ge=1)
    """Machines."""

    node_rank: int = Field(default=0, ge=0)
    """Number of this one; the first has the ranks from 0 on, and publishes the result."""

    address: str = "127.0.0.1"
    """Address of this one, at which its ranks listen."""

    first_node: str = ""
    """Name of the first one, for whoever has a name server; empty: none."""

    endpoint: str = ""
    """host:port of the first one's torchrun; empty: not known yet, or there is only one machine."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Return this process's place; outside a Job with several pods it is the only machine."""
        if NODES not in environment:
            return cls()
        return cls(
            num_nodes=int(environment[NODES]),
            node_rank=int(environment[RANK]),
            address=environment[ADDRESS],
            first_node=environment.get(FIRST_NODE, ""),
        )

    def local_ranks(self, ranks: int) -> int:
        """Return how many of all ranks this machine has: each has as many as the others."""
        return ranks // self.num_nodes


class _Notice(Frozen):
    """Where the first machine listens."""

    token: str
    """Another one for each start of the first machine's torchrun."""

    address: str
    port: int


class Meeting:
    """How the machines of one try find each other."""

    def __init__(self, store: Store, *, notice_uri: str, receipt_uri: str) -> None:
        """Take where the first machine leaves its address, and later its receipt."""
        self._store = store
        self._notice_uri = notice_uri
        self._receipt_uri = receipt_uri
        self._known = ""

    def announce(self, place: Place) -> Place:
        """Say, as the first machine, where the others find it; return its place with that endpoint."""
        notice = _Notice(token=uuid.uuid4().hex, address=place.address, port=_free_port(place.address))
        self._store.put(self._notice_uri, notice.model_dump_json().encode())
        logger.info("training: %d machines meet at %s:%d", place.num_nodes, notice.address, notice.port)
        return place.model_copy(update={"endpoint": f"{notice.address}:{notice.port}"})

    def wait(self, place: Place) -> Place | None:
        """Wait for the first machine's next start, and return this machine's place with its endpoint.

        The wait has no end of its own: the first machine may wait for its lease, or for a node. The Job has a deadline.

        Returns:
            None once the first machine has left its receipt: nothing is left to do.
        """
        pause = threading.Event()
        while self._store.read(self._receipt_uri) is None:
            notice = self._next_notice()
            host = _answering(notice, place.first_node) if notice else ""
            if notice and host:
                self._known = notice.token
                return place.model_copy(update={"endpoint": f"{host}:{notice.port}"})
            pause.wait(_POLL_SECONDS)
        return None

    def _next_notice(self) -> _Notice | None:
        data = self._store.read(self._notice_uri)
        notice = _Notice.model_validate_json(data) if data else None
        return None if notice is None or notice.token == self._known else notice


def _answering(notice: _Notice, name: str) -> str:
    """Return the name or the address at which the first machine answers; empty while it does not."""
    for host in (name, notice.address):
        with contextlib.suppress(OSError):
            if host:
                socket.create_connection((host, notice.port), timeout=_CONNECT_SECONDS).close()
                return host
    return ""


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
