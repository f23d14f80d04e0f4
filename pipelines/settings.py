"""Settings of this installation, from `SLIPWAY_*` variables only; a model's own settings are in its spec."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.errors import BadInput
from pipelines.podspec import parse_secrets

REPOSITORY = Path(__file__).resolve().parent.parent
"""Root of the source tree."""


def _of_secrets(text: str) -> str:
    """Return names of secrets as they are written.

    Raises:
        ValueError: when one is of another form, or no step may have it.
    """
    parse_secrets(text)
    return text


class Settings(BaseSettings):
    """Where things are. Defaults are the local stack; a company sets `store`, `ledger` and `platform`."""

    model_config = SettingsConfigDict(env_prefix="SLIPWAY_", frozen=True, extra="ignore")

    home: Path = Path(".slipway")
    """Folder with all local state: store, logs, databases, generated configuration."""

    store: str = ""
    """fsspec URL of the artifact store; empty: the folder `store` in `home`."""

    ledger: str = ""
    """SQLAlchemy URL of the ledger; empty: the embedded Postgres of the local stack."""

    backup: str = ""
    """fsspec URL (`file://` or `s3://`) of the backups; empty: the folder `<home>-backup` beside `home`.

    Beside it, not inside: whoever deletes or loses the home keeps the backups. It is still the same disk: a company
    names a bucket, or a folder on another machine's disk, and gives only this installation the right to write there."""

    logs: str = ""
    """URL (`s3://bucket/prefix`) to which Airflow copies the logs of finished tasks; empty: they stay in `home`."""

    backup_schedule: str = "@daily"
    """Cron expression or Airflow preset of the DAG `backup`; empty: by hand only, and before each rollout."""

    airflow_db: str = ""
    """SQLAlchemy URL of Airflow's own database, which no task can ask Airflow for; empty: the embedded Postgres."""

    aws_conn_id: str = ""
    """Airflow connection (amazon provider) with whose credentials tasks reach S3; empty: AWS's default chain.

    For tasks and the steps that they start on their machine. Whatever runs outside a task (the controller, Airflow's
    API server, a pod of a step) finds credentials by the chain: variables, a profile, or a role."""

    models_dir: Path = REPOSITORY / "dags" / "models"
    """Folder with the model specs."""

    platform: Literal["local", "kubernetes"] = "local"
    """Where steps and services run."""

    airflow_port: int = Field(default=8080, ge=1, le=65535)
    """Port of Airflow's API server and UI on 127.0.0.1."""

    service_ports: str = "8100-8199"
    """Ports on 127.0.0.1 for service endpoints (router listeners); the first free one is kept in the ledger."""

    copy_ports: str = "8200-8399"
    """Range of ports on 127.0.0.1 for copies of bentos behind the router."""

    webhook: str = ""
    """URL to which failures are posted as JSON; empty: only the log line."""

    pushgateway: str = ""
    """host:port of a Prometheus Pushgateway for numbers of tasks, and of trainings while they run; empty: none."""

    statsd: str = ""
    """host:port of a StatsD server for Airflow's own metrics, the tasks', and those of trainings; empty: none."""

    kubernetes_namespace: str = "slipway"
    """Namespace of everything that runs on the cluster."""

    kubernetes_context: str = ""
    """Context of the kubeconfig; empty: the current one of KUBECONFIG; without that a pod's own service account,
    and elsewhere what kubectl would use."""

    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When a node pulls an image."""

    image_pull_secrets: str = ""
    """Names of Secrets with which nodes pull images, separated by commas; empty: none."""

    store_secret: str = ""
    """Name of a Secret whose keys become AWS_* variables of pods; empty: the identity of their service account."""

    step_secrets: Annotated[str, AfterValidator(_of_secrets)] = ""
    """Variables of all step pods that come from Secrets, `HF_TOKEN=hugging-face/token`, separated by commas.

    A spec names more for one of its steps in `resources.<step>.secrets`; the nodes read them, nobody else."""

    step_image: str = "slipway-trainer:latest"
    """Image of the step pods: the code and everything that steps need; a digest (`name@sha256:...`) pins it."""

    step_service_account: str = "slipway-step"
    """Service account of the step pods: reaches the store, and nothing of the cluster."""

    service_image: str = "slipway-service:latest"
    """Image of every service pod: the runtime without a bento, which an init container fetches by its digest."""

    service_service_account: str = "slipway-service"
    """Service account of the service pods: may read the store, and nothing of the cluster."""

    service_domain: str = ""
    """Domain of the endpoints on a cluster: clients reach `<service>.<domain>`; empty: the host `<service>`."""

    gateway: str = "envoy-gateway-system/slipway"
    """namespace/name of the Gateway (Gateway API v1) that all endpoints share."""

    gateway_address: str = ""
    """host:port at which the Gateway is reached from inside the cluster; empty: the address in its status."""

    prometheus: str = "http://prometheus-operated.monitoring.svc:9090"
    """URL of the Prometheus that scrapes the Gateway's proxies: the counts of a release on a cluster."""

    prometheus_namespace: str = "monitoring"
    """Namespace of Prometheus, whose pods may scrape service pods."""

    store_ports: str = "443"
    """TCP ports, separated by commas, at which service pods may reach the store."""

    def resolved_home(self) -> Path:
        """Return `home` as an absolute path; a relative one starts at the source tree."""
        return self.home if self.home.is_absolute() else REPOSITORY / self.home

    def store_url(self) -> str:
        """Return the store's fsspec URL."""
        return self.store or f"file://{self.resolved_home() / 'store'}"

    def backup_url(self) -> str:
        """Return the backup store's fsspec URL."""
        home = self.resolved_home()
        return self.backup or f"file://{home.with_name(f'{home.name}-backup')}"

    @property
    def run_dir(self) -> Path:
        """Folder for sockets and pid files; its path is short because Unix sockets allow about 100 bytes."""
        name = hashlib.sha256(str(self.resolved_home()).encode()).hexdigest()[:10]
        return Path(tempfile.gettempdir()) / f"slipway-{os.getuid()}-{name}"

    def ledger_url(self) -> str:
        """Return the ledger's SQLAlchemy URL."""
        return self.ledger or f"postgresql+psycopg2://postgres@/ledger?host={self.run_dir / 'pg'}"

    def airflow_db_url(self) -> str:
        """Return the SQLAlchemy URL of Airflow's own database."""
        return self.airflow_db or f"postgresql+psycopg2://postgres@/airflow?host={self.run_dir / 'pg'}"


def read_settings() -> Settings:
    """Return the settings of this environment.

    Raises:
        BadInput: names the variable, its value and the rule.
    """
    try:
        return Settings()
    except ValidationError as error:
        problem = error.errors()[0]
        name = "SLIPWAY_" + "_".join(str(part) for part in problem["loc"]).upper()
        raise BadInput(f"{name}: {problem['msg']}, got {problem['input']!r}") from error


def parse_port_range(text: str) -> range:
    """Return the ports that `first-last` names.

    Raises:
        ValueError: when the text is not two rising port numbers.
    """
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) <= 65535):
        raise ValueError(f"a port range is written first-last, such as 8100-8199; got {text!r}")
    return range(int(first), int(last) + 1)
