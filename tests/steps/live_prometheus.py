"""A real Prometheus for tests."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import yaml

from tests.ports import own_port
from tests.steps.live import DEADLINE_SECONDS, wait_for

SCRAPE_SECONDS = 0.5


class LivePrometheus:
    """Scrapes proxies, each of which is a target of its own."""

    def __init__(self, folder: Path, targets: Sequence[str], path: str = "/stats/prometheus") -> None:
        """Run it in a folder.

        Args:
            folder: for its configuration and its samples.
            targets: host:port of what it scrapes.
            path: of the metrics.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.url = f"http://127.0.0.1:{own_port()}"
        job = {"job_name": "proxies", "metrics_path": path, "static_configs": [{"targets": list(targets)}]}
        pace = {"scrape_interval": f"{SCRAPE_SECONDS * 1000:.0f}ms", "scrape_timeout": f"{SCRAPE_SECONDS * 1000:.0f}ms"}
        self._config = folder / "prometheus.yml"
        self._config.write_text(yaml.safe_dump({"global": pace, "scrape_configs": [job]}))
        self.start()

    def start(self) -> None:
        command = [
            "prometheus",
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._folder / 'samples'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        with (self._folder / "prometheus.log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._is_up, "Prometheus is up")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(DEADLINE_SECONDS)

    def _is_up(self) -> bool:
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()[-2000:]
        try:
            return httpx.get(f"{self.url}/-/ready", trust_env=False).is_success
        except httpx.HTTPError:
            return False
