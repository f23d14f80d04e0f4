"""HTTP/1.1 in front of the API: one thread for each connection."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.cluster.api import Api
from tests.cluster.calls import Answer
from tests.cluster.faults import Cut, NoAnswer
from tests.cluster.refusals import Refused


class Server(ThreadingHTTPServer):
    """Serves an API until it is stopped."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, listener: socket.socket, api: Api) -> None:
        """Serve on a socket that is bound already."""
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.api = api
        self.stopping = threading.Event()
        self.server_activate()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Take no more requests, and end the answers that go on."""
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client has gone away; anything else is a fault of this server."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body go out together

    def log_message(self, format: str, *args: Any) -> None:  # the name is the base class's
        """Keep still: the API remembers what was asked."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            answer = self.server.api.answer(self.command, self.path, self.headers, body)  # type: ignore[arg-type]
        except Refused as refused:
            answer = Answer(refused.code, refused.status())
        except NoAnswer as fault:
            self.close_connection = True
            self.server.stopping.wait(fault.seconds)
            return
        if answer.stream is None:
            self._send(answer)
        else:
            self._stream(answer, answer.stream)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _send(self, answer: Answer) -> None:
        data = json.dumps(answer.body).encode()
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, answer: Answer, parts: Iterator[bytes]) -> None:
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        try:
            for part in parts:
                if part:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                    self.wfile.flush()
                elif self.server.stopping.is_set() or self._has_left():
                    break
        except Cut:
            self.close_connection = True
            return
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"0\r\n\r\n")

    def _has_left(self) -> bool:
        """Say whether the client has closed the connection."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        with contextlib.suppress(ConnectionError):
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        return True
