"""Two network namespaces joined by a link with a delay, made of two TUN devices and a relay between them.

Every packet is held for the delay in each direction; none is lost or reordered, and the rate is not limited. Needs root
and /dev/net/tun; no kernel module that delays packets.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

DEVICE = "link0"
"""Name of the link's end in each namespace."""

ADDRESSES = ("10.77.0.1", "10.77.0.2")
"""Address of each end."""

IP = "/sbin/ip"

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_LARGEST_PACKET = 65535
_MTU = 32768


@contextlib.contextmanager
def slow_link(delay_seconds: float) -> Iterator[tuple[list[str], list[str]]]:
    """Join two namespaces while the block lasts; yield the prefix of a command that runs in each."""
    names = [f"slipway-{os.getpid()}-{end}" for end in range(2)]
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        ends = []
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
            ends.append(_open_end(name, address))
            stack.callback(os.close, ends[-1])
        for source, target in (ends, reversed(ends)):
            stack.enter_context(_relayed(source, target, delay_seconds, ended))
        stack.callback(ended.set)
        first, second = ([IP, "netns", "exec", name] for name in names)
        yield first, second


def _open_end(namespace: str, address: str) -> int:
    """Return the descriptor of a TUN device that a namespace has as its end of the link."""
    device = f"{namespace[-10:]}"
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN_NO_PI))
    _ip("link", "set", device, "netns", namespace, "name", DEVICE)
    _ip("-n", namespace, "address", "add", f"{address}/24", "dev", DEVICE)
    _ip("-n", namespace, "link", "set", DEVICE, "mtu", str(_MTU), "txqueuelen", "10000", "up")
    _ip("-n", namespace, "link", "set", "lo", "up")
    return descriptor


@contextlib.contextmanager
def _relayed(source: int, target: int, delay_seconds: float, ended: threading.Event) -> Iterator[None]:
    """Carry packets from one end to the other, each of them `delay_seconds` late."""
    on_the_way: queue.Queue[tuple[float, bytes]] = queue.Queue()
    threads = [
        threading.Thread(target=_take, args=(source, on_the_way, delay_seconds, ended), daemon=True),
        threading.Thread(target=_give, args=(target, on_the_way, ended), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _take(
    source: int, on_the_way: queue.Queue[tuple[float, bytes]], delay_seconds: float, ended: threading.Event
) -> None:
    import select

    while not ended.is_set():
        if select.select([source], [], [], 0.1)[0]:
            on_the_way.put((time.monotonic() + delay_seconds, os.read(source, _LARGEST_PACKET)))


def _give(target: int, on_the_way: queue.Queue[tuple[float, bytes]], ended: threading.Event) -> None:
    while not ended.is_set():
        with contextlib.suppress(queue.Empty):
            due, packet = on_the_way.get(timeout=0.1)
            time.sleep(max(0.0, due - time.monotonic()))
            os.write(target, packet)


def _ip(*arguments: str) -> None:
    subprocess.run([IP, *arguments], check=True)
