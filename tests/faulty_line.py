"""A line to an S3 server that damages, cuts, loses or refuses chosen requests: a proxy in this process."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_NUM_PIECES, _PIECE_SECONDS = 8, 0.1
"""Of a body that trickles."""


class Fault(StrEnum):
    """What happens to a request."""

    FLIP_SENT = "a bit of the body is flipped on the way to the server"
    CUT_SENT = "the line breaks in the middle of the body on the way to the server"
    SHORTEN_SENT = "half the body arrives, and its length says so: the server is content"
    FLIP_GOT = "a bit of the answer's body is flipped"
    CUT_GOT = "the line breaks in the middle of the answer's body"
    SHORTEN_GOT = "half the answer's body arrives, and its length says so"
    TRICKLE_GOT = "the answer's body comes in small pieces, each a while after the one before"
    LOSE_ANSWER = "the server did it, and nobody hears of it"


@dataclass(frozen=True)
class Request:
    """What a rule sees of a request."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def access_key(self) -> str:
        """The access key that signed it."""
        return self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]


@dataclass
class FaultyLine:
    """The proxy. `faults` is used up by the requests of `method`, one by one; `refuse` may answer in place of S3."""

    upstream: str
    method: str = "PUT"
    faults: deque[Fault | None] = field(default_factory=deque)
    refuse: Callable[[Request], tuple[int, str, str] | None] = lambda _: None
    """Returns status, code and message of an error, or None."""

    dropped: frozenset[str] = frozenset()
    """Headers, in lower case, that are lost on the way to the server."""

    seen: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        handler = type("Handler", (_Handler,), {"line": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def suffer(self, method: str, *faults: Fault | None) -> None:
        """Let the next requests of a method suffer faults; None: this one passes."""
        self.method = method
        self.faults.extend(faults)

    def next_fault(self, request: Request) -> Fault | None:
        """Note a request, and return what happens to it."""
        with self.lock:
            self.seen.append(request)
            return self.faults.popleft() if self.faults and request.method == self.method else None

    def stop(self) -> None:
        """Stop it."""
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    line: FaultyLine

    def handle_any(self) -> None:
        request = Request(self.command, self.path, dict(self.headers.items()))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        refusal = self.line.refuse(request)
        if refusal is not None:
            self._refuse(*refusal)
            return
        fault = self.line.next_fault(request)
        answered = self._forward(_damaged(body, fault), fault)
        if answered is None or fault is Fault.LOSE_ANSWER:
            self._hang_up()
        else:
            self._answer(*answered, fault)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _forward(self, body: bytes, fault: Fault | None) -> tuple[http.client.HTTPResponse, bytes] | None:
        connection = http.client.HTTPConnection(urlsplit(self.line.upstream).netloc, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"expect", "content-length", "connection"} | self.line.dropped:
                    connection.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            connection.send(body[: len(body) // 2] if fault is Fault.CUT_SENT else body)
            if fault is Fault.CUT_SENT:
                return None
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def _answer(self, response: http.client.HTTPResponse, body: bytes, fault: Fault | None) -> None:
        if fault is Fault.SHORTEN_GOT:
            body = body[: len(body) // 2]
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        if self.command == "HEAD":
            self.send_header("Content-Length", response.getheader("Content-Length") or "0")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        match fault:
            case Fault.CUT_GOT:
                self.wfile.write(body[: len(body) // 2])
                self._hang_up()
            case Fault.TRICKLE_GOT:
                self._trickle(body)
            case _:
                self.wfile.write(_flipped(body) if fault is Fault.FLIP_GOT else body)

    def _refuse(self, status: int, code: str, more: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Refused.</Message>{more}</Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _trickle(self, body: bytes) -> None:
        """Send a body in pieces until whoever reads it goes away."""
        step = -(-len(body) // _NUM_PIECES)
        with contextlib.suppress(ConnectionError):
            for offset in range(0, len(body), step):
                self.wfile.write(body[offset : offset + step])
                self.line.stopped.wait(_PIECE_SECONDS)

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True


def _damaged(body: bytes, fault: Fault | None) -> bytes:
    match fault:
        case Fault.FLIP_SENT:
            return _flipped(body)
        case Fault.SHORTEN_SENT:
            return body[: len(body) // 2]
        case _:
            return body


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
