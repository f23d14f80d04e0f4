"""What a service pod does before it is told to end: it waits until its answers are over.

The pod's `preStop` hook runs this file's text by `python -c`, whatever can be imported there; so it uses nothing but
Python. A pod that is going away is taken out of its endpoints at the same time, which takes the gateway a moment to
learn: until then new requests come in, and must be answered. A connection that is open is a request under way, or one
that the service closes by itself after five idle seconds.

python -c <text> <port> <least seconds> <most seconds>, with the address in POD_IP
"""

import os
import socket
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.25
ESTABLISHED = "01"


def num_connections(address: str, port: int) -> int:
    """Return how many clients are connected to an address."""
    return sum(_is_ours(line.split(), address, port) for line in _lines())


def wait(address: str, port: int, least: float, most: float) -> None:
    """Return when nobody is connected, after the least time at the earliest, after the most at the latest."""
    begun = time.monotonic()
    while time.monotonic() < begun + most:
        if time.monotonic() >= begun + least and not num_connections(address, port):
            return
        time.sleep(POLL_SECONDS)


def _lines() -> list[str]:
    found = []
    for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if path.exists():
            found += path.read_text().splitlines()[1:]
    return found


def _is_ours(fields: list[str], address: str, port: int) -> bool:
    host, _, number = fields[1].partition(":")
    is_here = host.endswith(_as_hex(address)) and int(number, 16) == port
    return is_here and fields[3] == ESTABLISHED


def _as_hex(address: str) -> str:
    """Return an address as the kernel writes it: words of four bytes, each in the machine's order."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)


if __name__ == "__main__":
    wait(os.environ["POD_IP"], int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
