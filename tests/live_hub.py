"""A server that speaks as much of the Hugging Face Hub's API as reading a model takes, over HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

BRANCH = "main"


class Refusal(Exception):
    """What the server says instead of an answer."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status, code)
        self.status, self.code = status, code


class LiveHub:
    """A running server; repositories are added while it runs."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Mapping[str, bytes]]] = {}
        """By repository and commit: files."""

        self.branches: dict[str, str] = {}
        """By repository: commit of its main branch."""

        self.refusals: dict[str, Refusal] = {}
        """By repository: what everyone gets who asks for it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def push(self, repository: str, files: Mapping[str, bytes]) -> str:
        """Add a commit to the main branch and return its name."""
        commit = hashlib.sha1(json.dumps({n: _sha256(d) for n, d in files.items()}).encode()).hexdigest()  # noqa: S324
        self.commits.setdefault(repository, {})[commit] = dict(files)
        self.branches[repository] = commit
        return commit

    def files(self, repository: str, revision: str) -> tuple[str, Mapping[str, bytes]]:
        """Return a commit and its files, or raise the refusal."""
        if repository in self.refusals:
            raise self.refusals[repository]
        if repository not in self.commits:
            raise Refusal(404, "RepoNotFound")
        commit = self.branches[repository] if revision == BRANCH else revision
        if commit not in self.commits[repository]:
            raise Refusal(404, "RevisionNotFound")
        return commit, self.commits[repository][commit]

    def stop(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: ClassVar[LiveHub]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, *, with_body: bool) -> None:
        try:
            body, headers = self._find()
            status = 200
        except Refusal as refusal:
            body, headers, status = b"", {"X-Error-Code": refusal.code}, refusal.status
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _find(self) -> tuple[bytes, dict[str, str]]:
        match [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]:
            case ["api", "models", owner, name]:
                return self._model(f"{owner}/{name}", BRANCH)
            case ["api", "models", owner, name, "revision", revision]:
                return self._model(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "tree", revision]:
                _, files = self.hub.files(f"{owner}/{name}", revision)
                return _json([_entry(name, data) for name, data in files.items()])
            case [owner, name, "resolve", revision, *path]:
                commit, files = self.hub.files(f"{owner}/{name}", revision)
                data = files["/".join(path)]
                return data, {"X-Repo-Commit": commit, "ETag": f'"{_sha256(data)}"'}
            case _:
                raise Refusal(404, "EntryNotFound")

    def _model(self, repository: str, revision: str) -> tuple[bytes, dict[str, str]]:
        commit, files = self.hub.files(repository, revision)
        siblings = [{"rfilename": name, **_entry(name, data, "sha256")} for name, data in files.items()]
        return _json({"id": repository, "sha": commit, "siblings": siblings})


def _entry(name: str, data: bytes, digest: str = "oid") -> dict[str, Any]:
    """Describe a file; weights lie in large file storage, by their sha256."""
    large = {"lfs": {"size": len(data), digest: _sha256(data), "pointerSize": 134}}
    is_large = name.endswith((".safetensors", ".bin"))
    blob = hashlib.sha1(data).hexdigest()  # noqa: S324 - git's
    return {"type": "file", "path": name, "size": len(data), "oid": blob, "blobId": blob, **(large if is_large else {})}


def _json(value: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(value).encode(), {"Content-Type": "application/json"}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
