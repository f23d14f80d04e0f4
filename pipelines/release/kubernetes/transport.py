"""Requests through the Gateway, by the number that the ledger has for a service."""

from __future__ import annotations

import httpx

from pipelines import ledger
from pipelines.release.kubernetes.gateway import Gateway
from pipelines.release.ports import Address, ProbeFailed


class GatewayTransport(httpx.BaseTransport):
    """Sends what is addressed to a service's number to the Gateway, under the service's host name.

    It goes to the Gateway's own address, so that it needs no DNS, and takes the way of the users.
    """

    def __init__(self, url: str, gateway: Gateway) -> None:
        """Use the ledger at a URL, and the Gateway; what was looked up is kept while it leads to somebody."""
        self._url = url
        self._gateway = gateway
        self._inner = httpx.HTTPTransport()
        self._services: dict[int, str] = {}
        self._address: Address | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        address = self._address or self._gateway.address()
        request.headers["Host"] = self._gateway.host(self._service(request.url.port or 0))
        request.url = request.url.copy_with(host=address.host, port=address.port)
        try:
            response = self._inner.handle_request(request)
        except httpx.TransportError:
            self._address = None
            raise
        self._address = address
        return response

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()

    def _service(self, number: int) -> str:
        if number not in self._services:
            self._services = {claimed: service for service, claimed in ledger.claimed_ports(self._url).items()}
        if number not in self._services:
            raise ProbeFailed(f"no service has the number {number}; the ledger was changed in the meantime")
        return self._services[number]
