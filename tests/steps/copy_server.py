"""A copy that is quick to start: answers like the text-generation service, from the files of a small bento.

python copy_server.py <bento folder> <port> [<address>]
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a copy is started with an empty path

from pipelines.formats.headers import COPY, COPY_VARIABLE, TRAFFIC, traffic_of
from pipelines.formats.metrics import ANSWERS, REQUESTS

ANSWER_SECONDS = 0.02
CHUNK_SECONDS = 0.1
SILENT_SECONDS = 30.0
LATE_SECONDS = 0.2


class Habits:
    """What is wrong with a copy from its start on."""

    def __init__(
        self,
        *,
        is_ready: bool = True,
        longest_prompt: int | None = None,
        most_at_once: int | None = None,
        leak_mib: int = 0,
        memory_mib: int = 0,
    ) -> None:
        """Take what is wrong.

        Args:
            is_ready: whether it ever says so.
            longest_prompt: characters; longer ones fail.
            most_at_once: requests; it is slow when there are more.
            leak_mib: memory that each request keeps.
            memory_mib: what it may use beyond what it has at its start; then it dies.
        """
        self.is_ready = is_ready
        self._longest_prompt = longest_prompt
        self._most_at_once = most_at_once
        self._leak_mib, self._memory_mib = leak_mib, memory_mib
        self._kept: list[bytes] = []
        self._at_once = 0
        self._lock = threading.Lock()

    def fails(self, prompt: str) -> bool:
        return self._longest_prompt is not None and len(prompt) > self._longest_prompt

    @contextlib.contextmanager
    def at_work(self) -> Iterator[float]:
        """Yield how many seconds more an answer takes."""
        self._leak()
        with self._lock:
            self._at_once += 1
            is_late = self._most_at_once is not None and self._at_once > self._most_at_once
        try:
            yield LATE_SECONDS if is_late else 0.0
        finally:
            with self._lock:
                self._at_once -= 1

    def _leak(self) -> None:
        if self._leak_mib:
            self._kept.append(os.urandom(self._leak_mib << 20))
        if self._memory_mib and len(self._kept) * self._leak_mib > self._memory_mib:
            os.kill(os.getpid(), signal.SIGKILL)  # what a kernel does to a container at its limit


class Handler(BaseHTTPRequestHandler):
    """Answers golden requests with what the bento's `answers.json` says, everything else with the prompt's beginning.

    An answer leaves in one piece: when the process is killed, users have all of it or nothing, headers included.
    """

    protocol_version = "HTTP/1.1"
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True
    server: Server
    identity: dict[str, str]
    answers: dict[str, str]
    seen: list[dict[str, str]]
    habits: Habits

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.send(200, "text/plain", self.server.metrics().encode())
            return
        is_ready = self.path != "/readyz" or self.server.is_ready
        self.answer(200 if is_ready else 503, self.identity)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = "500" if self.habits.fails(body["prompt"]) else self.server.fault
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        with self.habits.at_work() as seconds:
            time.sleep(float(body.get("seconds", ANSWER_SECONDS)) + seconds)
        match fault:
            case "silent":
                time.sleep(SILENT_SECONDS)
            case "reset" | "reset once":
                self.server.fault = "" if fault == "reset once" else fault
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                raise ConnectionAbortedError
            case status if status.isdigit():
                self.server.refused.append(status)
                self.answer(int(status), {"error": "as asked"})
            case _ if "chunks" in body:
                self.stream(int(body["chunks"]))
            case _:
                text = self.answers.get(body["prompt"], body["prompt"][:1000])
                offsets = [match.start() for match in re.finditer(r"\S+", text)]
                scored = {"text_offset": offsets, "token_logprobs": [-1.0] * len(offsets)}
                told = [self.headers.get(name) for name in (TRAFFIC, "Host", COPY)]
                self.server.count(traffic_of(*told, own=self.server.copy))
                self.answer(200, {"choices": [{"text": text, "logprobs": scored if body.get("echo") else None}]})

    def stream(self, num_chunks: int) -> None:
        """Answer in chunks; one that is to break off does so after the first."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-Slipway-Version", self.identity["version"])
        self.end_headers()
        for number in range(num_chunks):
            self.wfile.write(b"5\r\ntoken\r\n")
            self.wfile.flush()
            if self.server.fault == "break":
                self.connection.shutdown(socket.SHUT_RDWR)
                raise ConnectionAbortedError
            if number < num_chunks - 1:
                self.server.next_chunk.wait(CHUNK_SECONDS)
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, status: int, content: Any) -> None:
        self.send(status, "application/json", json.dumps(content).encode())

    def send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Slipway-Version", self.identity["version"])
        self.send_header("X-Slipway-Digest", self.identity["digest"])
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """One copy in this process.

    `fault` makes it fail: `silent`, `reset` or `reset once` before an answer, `break` in the middle of a streamed one,
    or with a status; what it says when a request arrives is what happens to that one. `seen` has the headers of each
    POST, `refused` each status that was a fault.
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(
        self,
        port: int,
        version: str,
        digest: str,
        answers: dict[str, str] | None = None,
        habits: dict[str, Any] | None = None,
        *,
        host: str = "127.0.0.1",
    ) -> None:
        self.copy = os.environ.get(COPY_VARIABLE)
        self.seen: list[dict[str, str]] = []
        self.refused: list[str] = []
        self.answered: Counter[str] = Counter()
        self._counting = threading.Lock()
        self.fault = ""
        wrong = Habits(**(habits or {}))
        self.is_ready = wrong.is_ready
        self.next_chunk = threading.Event()
        attributes = {
            "identity": {"version": version, "digest": digest},
            "answers": answers or {},
            "seen": self.seen,
            "habits": wrong,
        }
        super().__init__((host, port), type("CopyHandler", (Handler,), attributes))

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def count(self, traffic: str) -> None:
        """Count an answer, of which threads give many at once."""
        with self._counting:
            self.answered[traffic] += 1

    def metrics(self) -> str:
        """Return what a release reads of a copy's metrics."""
        lines = []
        for name, labels in ((ANSWERS, ""), (REQUESTS, ',code="200"')):
            lines.append(f"# TYPE {name}_total counter")
            counts = list(self.answered.items())
            lines.extend(f'{name}_total{{traffic="{traffic}"{labels}}} {count}' for traffic, count in counts)
        return "\n".join([*lines, ""])

    def run_in_thread(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that break."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


def serve_like_bentoml(server: Server) -> None:
    """Serve in a worker that inherits the listening socket; a supervisor that is killed leaves it behind."""
    worker = os.fork()
    if worker == 0:
        server.serve_forever()
    os.waitpid(worker, 0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # process 1 of a pod gets only what it handles
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    known = json.loads((folder / "src" / "copy.json").read_text())
    host = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"
    identity = (known["version"], known["digest"], known["answers"], known.get("habits"))
    serve_like_bentoml(Server(port, *identity, host=host))
