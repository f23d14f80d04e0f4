"""The installation that drives a cluster from here: the settings of an overlay, but for what the target says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.settings import Settings
from tests.e2e_k8s.target import OVERLAYS, Target
from tests.local_stack import NUM_PORTS, free_ports

GATEWAY_CLASS = "envoy-gateway"
NAMESPACE = "slipway"
STORE_SECRET = "slipway-store"
STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
HTTPS, HTTP = 443, 80

_PREFIX = "SLIPWAY_"


def settings_of(target: Target, home: Path) -> Settings:
    """Return the settings.

    A SLIPWAY_ variable of the environment counts more than the overlay's; but databases, backups and logs are this
    run's own, whatever a user's installation has.
    """
    first = free_ports(NUM_PORTS)
    ours: dict[str, Any] = {
        "home": home,
        "store": target.store,
        **dict.fromkeys(("airflow_db", "backup", "ledger", "logs"), ""),
        "platform": "kubernetes",
        "kubernetes_namespace": NAMESPACE,
        "kubernetes_context": target.context,
        "step_image": target.image("trainer"),
        "service_image": target.image("service"),
        "store_secret": STORE_SECRET if all(map(os.environ.get, STORE_KEYS)) else "",
        "store_ports": str(store_port()),
        "gateway_address": target.gateway_address,
        **({"prometheus": target.prometheus} if target.prometheus else {}),
        "airflow_port": first,
        "service_ports": f"{first + 1}-{first + 10}",
        "copy_ports": f"{first + 11}-{first + NUM_PORTS - 1}",
    }
    return Settings(**{**_said_by(target.overlay), **ours})


def store_port() -> int:
    """Return at which port the store is reached."""
    url = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https://s3")
    return url.port or (HTTP if url.scheme == "http" else HTTPS)


def _said_by(overlay: str) -> dict[str, str]:
    """Return what an overlay sets and the environment does not, by the names of the settings."""
    lines = (OVERLAYS / overlay / "settings.env").read_text(encoding="utf-8").splitlines()
    said = dict(line.split("=", 1) for line in lines if line.startswith(_PREFIX))
    return {name.removeprefix(_PREFIX).lower(): value for name, value in said.items() if name not in os.environ}
