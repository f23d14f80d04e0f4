"""A real Prometheus on the cluster: it scrapes the Gateway's Envoy, and the pods that want to be scraped."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import httpx
import yaml

from tests.cluster import processes
from tests.cluster.cluster import Cluster
from tests.cluster.gateway.controller import HOME, EnvoyGateway
from tests.cluster.kinds import POD, POD_MONITOR
from tests.cluster.loop import Loop
from tests.cluster.ownership import is_active
from tests.cluster.running import Running
from tests.cluster.selectors import Object, fits
from tests.cluster.services import target_port
from tests.steps.live import wait_for

PORT = 9090
SCRAPE_SECONDS = 0.5
_ANNOTATION = "prometheus.io/"


class LivePrometheus(Running):
    """Scrapes every half second. Pods are found by the annotations `prometheus.io/scrape`, `port` and `path`, or by a
    PodMonitor (monitoring.coreos.com/v1)."""

    def __init__(self, cluster: Cluster, gateway: EnvoyGateway) -> None:
        self.url = f"http://{cluster.network}.0.3:{PORT}"
        self._store = cluster.store
        self._gateway = gateway
        self._folder = cluster.folder / "prometheus"
        self._folder.mkdir()
        self._targets = self._folder / "targets.json"
        self._written = ""
        self._client = httpx.Client(base_url=self.url, trust_env=False, timeout=5)
        self._write_targets()
        pace = {"scrape_interval": f"{SCRAPE_SECONDS * 1000:.0f}ms", "scrape_timeout": f"{SCRAPE_SECONDS * 1000:.0f}ms"}
        job = {"job_name": "cluster", "file_sd_configs": [{"files": [str(self._targets)], "refresh_interval": "1s"}]}
        configuration = self._folder / "prometheus.yml"
        configuration.write_text(yaml.safe_dump({"global": pace, "scrape_configs": [job]}))
        self._command = [
            "prometheus",
            f"--config.file={configuration}",
            f"--storage.tsdb.path={self._folder / 'samples'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]
        self.start()
        self._loop = Loop(self._store, [self._write_targets])

    def start(self) -> None:
        """Start the process, again after `kill`."""
        with (self._folder / "prometheus.log").open("a") as log:
            self._process: subprocess.Popen[bytes] = processes.start(self._command, output=log)
        wait_for(self._is_up, "Prometheus is up")

    def kill(self) -> None:
        """End the process without notice."""
        self._process.send_signal(processes.KILL)
        self._process.wait()

    def stop(self) -> None:
        """Stop for good."""
        self._loop.stop()
        self.kill()
        self._client.close()

    def query(self, text: str) -> list[dict[str, Any]]:
        """Return the result of an instant query: series with `metric` and `value`."""
        answer = self._client.get("/api/v1/query", params={"query": text}).raise_for_status().json()
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def total(self, text: str) -> float:
        """Return the sum of all values of an instant query."""
        return sum(float(series["value"][1]) for series in self.query(text))

    def _write_targets(self) -> None:
        proxy = {"namespace": HOME, "pod": "envoy-slipway", "__metrics_path__": "/stats/prometheus"}
        rows = [{"targets": [self._gateway.proxy.metrics], "labels": proxy}]
        for pod in self._store.list(POD):
            if is_active(pod) and pod.get("status", {}).get("podIP"):
                rows += [*self._annotated(pod), *self._monitored(pod)]
        content = json.dumps(rows, sort_keys=True)
        if content != self._written:
            temporary = self._targets.with_suffix(".new")
            temporary.write_text(content)
            temporary.replace(self._targets)
            self._written = content

    def _annotated(self, pod: Object) -> list[Object]:
        notes = pod["metadata"].get("annotations") or {}
        if notes.get(f"{_ANNOTATION}scrape") != "true":
            return []
        return [_target(pod, int(notes[f"{_ANNOTATION}port"]), notes.get(f"{_ANNOTATION}path", "/metrics"), {})]

    def _monitored(self, pod: Object) -> list[Object]:
        labels = pod["metadata"].get("labels") or {}
        rows = []
        for monitor in self._store.list(POD_MONITOR, pod["metadata"]["namespace"]):
            if not fits(monitor["spec"].get("selector"), labels):
                continue
            told = {
                re.sub(r"\W", "_", name): labels.get(name, "") for name in monitor["spec"].get("podTargetLabels", ())
            }
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                port = target_port({"port": endpoint["port"]}, pod)
                rows.append(_target(pod, port, endpoint.get("path", "/metrics"), told))
        return rows

    def _is_up(self) -> bool:
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()[-2000:]
        try:
            return self._client.get("/-/ready").is_success
        except httpx.HTTPError:
            return False


def _target(pod: Object, port: int, path: str, labels: dict[str, str]) -> Object:
    about = {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"], "__metrics_path__": path}
    return {"targets": [f"{pod['status']['podIP']}:{port}"], "labels": {**about, **labels}}
