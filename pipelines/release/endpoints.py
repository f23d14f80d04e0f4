"""Where clients reach a service."""

from __future__ import annotations

from pipelines.settings import Settings


def endpoint(settings: Settings, service: str, port: int) -> str:
    """Return the URL of a service.

    Args:
        settings: of the installation.
        service: its name, which is part of its host behind a Gateway.
        port: what the ledger has for it: on one machine the port of its listener, behind a Gateway but a number.
    """
    return f"http://{host(settings, service) if settings.platform == 'kubernetes' else f'127.0.0.1:{port}'}"


def host(settings: Settings, service: str) -> str:
    """Return the host name by which the Gateway knows a service."""
    return f"{service}.{settings.service_domain}".rstrip(".")
