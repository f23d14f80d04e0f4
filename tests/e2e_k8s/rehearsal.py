"""A cluster to rehearse `make e2e-k8s`: the tests' own with a Gateway, Prometheus, an S3 server and a tiny model.

    python -m tests.e2e_k8s.rehearsal

starts it all, prints the command that runs there, and ends it with Ctrl-C. Steps and services are processes of this
machine, so no image is needed.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipelines.settings import Settings
from tests.cluster import Cluster
from tests.cluster.gateway import EnvoyGateway, LivePrometheus
from tests.cluster.gateway.controller import HOME, port_of
from tests.dags.cluster_case import MODEL, SPEED, write_spec
from tests.live_s3 import LiveS3

LISTENER = 80
"""Port of the Gateway in the manifests."""


@contextlib.contextmanager
def rehearsal(folder: Path) -> Iterator[Mapping[str, str]]:
    """Start a cluster for a block; yield the variables with which the command finds it.

    Args:
        folder: an empty one, for the spec and its corpus.
    """
    with contextlib.ExitStack() as stack:
        s3 = LiveS3()
        stack.callback(s3.stop)
        cluster = stack.enter_context(Cluster(namespaces=(HOME,), speed=SPEED))
        gateway = stack.enter_context(EnvoyGateway(cluster))
        prometheus = stack.enter_context(LivePrometheus(cluster, gateway))
        models = folder / "models"
        write_spec(Settings(models_dir=models), s3)
        yield {
            **s3.environment,
            "KUBECONFIG": str(cluster.kubeconfig),
            "STORE": f"s3://{s3.make_bucket()}/store",
            "GATEWAY_ADDRESS": f"{gateway.address}:{port_of(LISTENER)}",
            "PROMETHEUS": prometheus.url,
            "SLIPWAY_MODELS_DIR": str(models),
            "MODEL": MODEL,
        }


def main() -> None:
    """Keep a cluster until somebody ends it."""
    with tempfile.TemporaryDirectory(prefix="slipway-rehearsal-") as folder, rehearsal(Path(folder)) as variables:
        print(" ".join([*(f"{name}={value}" for name, value in variables.items()), "make e2e-k8s"]), flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
