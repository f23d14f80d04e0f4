"""A copy that is quick to start: answers like the text-generation service, from the files of a small bento.

python copy_server.py <bento folder> <port>
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 0.02


class Handler(BaseHTTPRequestHandler):
    """Answers golden requests with what the bento's `answers.json` says, and everything else with the prompt."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    identity: dict[str, str]
    answers: dict[str, str]
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.answer(200, self.identity)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        time.sleep(float(body.get("seconds", ANSWER_SECONDS)))
        self.answer(200, {"choices": [{"text": self.answers.get(body["prompt"], body["prompt"])}]})

    def answer(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Slipway-Version", self.identity["version"])
        self.send_header("X-Slipway-Digest", self.identity["digest"])
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """One copy in this process."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, port: int, version: str, digest: str, answers: dict[str, str] | None = None) -> None:
        self.seen: list[dict[str, str]] = []
        attributes = {
            "identity": {"version": version, "digest": digest},
            "answers": answers or {},
            "seen": self.seen,
        }
        super().__init__(("127.0.0.1", port), type("CopyHandler", (Handler,), attributes))

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def run_in_thread(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

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
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    known = json.loads((folder / "src" / "copy.json").read_text())
    serve_like_bentoml(Server(port, known["version"], known["digest"], known["answers"]))
