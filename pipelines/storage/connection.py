"""A connection to S3: credentials of the default chain, bounded waits, and retries with growing, varied pauses."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from typing import Any

from pipelines.trouble import EXPIRED, Unsound, error_code

_MAX_ATTEMPTS = 8
"""Of one request, when AWS_MAX_ATTEMPTS and the profile say nothing; botocore's pauses are 20 s at most."""

_CONNECT_SECONDS = 10
"""Wait for a connection, and for the other side to take the next block of a body."""

_READ_SECONDS = 60
"""Wait for an answer, or for the next block of its body."""

_PART_SECONDS = 300.0
"""Limit for one part's body, with its retries: whoever moves 8 MiB slower than this counts as away."""

_MAX_CONNECTIONS = 64
_BLOCK_BYTES = 64 << 10


class Connection:
    """S3, as the environment of this process names it. Opened by the first call; any thread may call.

    Credentials that know how (a role, a web identity, `credential_process`) are refreshed before they end. When others
    have ended, the chain is read once more: whoever renews a file of credentials need not restart anything.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: _Client | None = None

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to one request; `Body`, where there is one, is bytes.

        Raises:
            botocore.exceptions.BotoCoreError: when there is no answer after all attempts, or nothing to ask with.
            botocore.exceptions.ClientError: when the answer is a refusal.
        """
        from botocore.exceptions import ClientError

        client = self._client()
        try:
            return client.call(operation, arguments)
        except ClientError as error:
            if error_code(error) not in EXPIRED or not self._renew(client):
                raise
        return self._client().call(operation, arguments)

    def objects(self, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield what a bucket says of each object whose key begins so; each page is a request of its own.

        Raises:
            botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError: as `call` does.
        """
        after: dict[str, str] = {}
        while True:
            page = self.call("list_objects_v2", Bucket=bucket, Prefix=prefix, **after)
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def _client(self) -> _Client:
        with self._lock:
            if self._opened is None:
                self._opened = _Client()
            return self._opened

    def _renew(self, used: _Client) -> bool:
        """Return whether there are other credentials than those that a client used."""
        with self._lock:
            if self._opened is used:
                self._opened = _Client()
            return self._opened is not None and self._opened.credentials != used.credentials


class _Client:
    def __init__(self) -> None:
        import botocore.session

        session = botocore.session.Session()
        found = session.get_credentials()
        self.credentials = None if found is None else found.get_frozen_credentials()
        self.client = session.create_client("s3", config=_config(session))

    def call(self, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if "Body" in arguments:
            arguments = {**arguments, "Body": _Outgoing(arguments["Body"])}
        answer: dict[str, Any] = getattr(self.client, operation)(**arguments)
        return answer


def _config(session: Any) -> Any:
    from botocore.config import Config

    wanted = session.get_config_variable("max_attempts")
    return Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": int(wanted or _MAX_ATTEMPTS)},
        max_pool_connections=_MAX_CONNECTIONS,
        tcp_keepalive=True,
        request_checksum_calculation="when_required",  # Content-MD5, which every server knows, goes with each body
        response_checksum_validation="when_required",
    )


class _Outgoing(io.BytesIO):
    """A body to send, in blocks, so that a slow line is no silent one; it ends when its time is over."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._deadline = time.monotonic() + _PART_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"{len(self.getbuffer())} bytes were not taken within {_PART_SECONDS:.0f} s")
        return super().read(size)


def read_body(answer: dict[str, Any]) -> bytes:
    """Return the body of an answer, whole.

    Raises:
        Unsound: when it is cut, or its time is over.
    """
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    deadline = time.monotonic() + _PART_SECONDS
    blocks = []
    try:
        for block in answer["Body"].iter_chunks(_BLOCK_BYTES):
            blocks.append(block)
            if time.monotonic() > deadline:
                raise Unsound(f"the answer was not whole within {_PART_SECONDS:.0f} s")
    except (HTTPClientError, IncompleteReadError) as error:
        raise Unsound("the answer was cut") from error
    finally:
        answer["Body"].close()
    return b"".join(blocks)
