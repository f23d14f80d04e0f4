"""An S3 server for tests: moto's, over HTTP, with credentials that must not be found anywhere."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
import httpx
from moto.server import ThreadedMotoServer

KEY_ID = "AKIACANARY7NOBODYSKEY"
SECRETS = ("wJalrXUtnCANARY+K7MDENGbPxRfiCYNOBODYSKEY", "FwoGZXIvYXdzECANARYTOKENOFNOBODY")
"""Secret key and session token."""


class LiveS3:
    """A running server."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        deadline = time.monotonic() + 30
        while httpx.get(f"{self.url}/moto-api/").status_code >= 500:
            assert time.monotonic() < deadline, "moto_server did not start"

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables with which a process finds this server."""
        return {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRETS[0],
            "AWS_SESSION_TOKEN": SECRETS[1],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }

    @property
    def client(self) -> Any:
        """Return a client that depends on no variable."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRETS[0],
        )

    def make_bucket(self) -> str:
        """Create a bucket with a name of its own and return the name."""
        bucket = f"bucket-{uuid.uuid4().hex}"
        self.client.create_bucket(Bucket=bucket)
        return bucket

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object."""
        self.client.put_object(Bucket=bucket, Key=key, Body=data)

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Return all objects of a bucket."""
        client = self.client
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    @contextlib.contextmanager
    def strict(self) -> Iterator[None]:
        """Refuse, for the length of a block, credentials that were not issued: all."""
        self._authenticate_after("0")
        try:
            yield
        finally:
            self._authenticate_after("inf")

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()

    def _authenticate_after(self, num_requests: str) -> None:
        httpx.post(f"{self.url}/moto-api/reset-auth", content=num_requests).raise_for_status()
