"""torchrun's rendezvous for machines whose order is given.

torchrun numbers machines by their addresses. Here the first one must have rank 0, for the step on it publishes what
rank 0 leaves, and each must keep its number, for ranks learn from their own share of the data.
"""

from __future__ import annotations

from torch.distributed import PrefixStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

BACKEND = "indexed"
"""Value of torchrun's `--rdzv-backend`; `--rdzv-conf` has the machine's number as `node_rank`."""


class IndexedRendezvous(RendezvousHandler):  # type: ignore[misc]  # torch has no types here
    """The rendezvous of another handler, with this machine's number in place of the one that it was given."""

    def __init__(self, meeting: RendezvousHandler, *, node_rank: int, address: str) -> None:
        """Take who brings the machines together, and this machine's number and address."""
        self._meeting = meeting
        self._node_rank = node_rank
        self._address = address

    def get_backend(self) -> str:
        """Return the name of this rendezvous."""
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until all machines are there; the ranks then meet on the first one."""
        met = self._meeting.next_rendezvous()
        store = PrefixStore(BACKEND, met.store)  # beside what the other handler wrote for its own first machine
        first = RendezvousStoreInfo.build(self._node_rank, store, local_addr=self._address)
        return RendezvousInfo(met.store, self._node_rank, met.world_size, first)

    def is_closed(self) -> bool:
        """Return whether no machine can join any more."""
        is_closed: bool = self._meeting.is_closed()
        return is_closed

    def set_closed(self) -> None:
        """Let no machine join any more."""
        self._meeting.set_closed()

    def num_nodes_waiting(self) -> int:
        """Return how many machines came late; those that train start again with them."""
        num_waiting: int = self._meeting.num_nodes_waiting()
        return num_waiting

    def get_run_id(self) -> str:
        """Return the name of the training."""
        name: str = self._meeting.get_run_id()
        return name

    def shutdown(self) -> bool:
        """Leave."""
        has_left: bool = self._meeting.shutdown()
        return has_left


def register() -> None:
    """Let torchrun know this rendezvous."""
    rendezvous_handler_registry.register(BACKEND, _create)


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
    from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

    backend, store = create_backend(parameters)
    node_rank = parameters.get_as_int("node_rank")
    if node_rank is None or parameters.local_addr is None:
        raise ValueError("this rendezvous needs --local-addr, and node_rank in --rdzv-conf")
    meeting = create_handler(store, backend, parameters)
    return IndexedRendezvous(meeting, node_rank=node_rank, address=parameters.local_addr)
