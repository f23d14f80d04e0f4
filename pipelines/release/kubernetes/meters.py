"""What the pods of a copy say that they did, added up.

A pod is asked at its own address. From outside of a cluster that address may lead nowhere: then the API server asks for
us (`pods/proxy`), which nobody needs the right for who runs in a pod.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import httpx

from pipelines.cluster.access import is_in_a_pod
from pipelines.errors import SlipwayError
from pipelines.formats import metrics
from pipelines.formats.headers import Traffic
from pipelines.formats.metrics import Histogram, ServiceCounters
from pipelines.release.kubernetes.cluster import Body, Cluster
from pipelines.release.kubernetes.objects import PORT
from pipelines.release.ports import FleetError

TIMEOUT_SECONDS = 5.0
PATH = "/metrics"


class PodMeters:
    """Reads the counters of pods; threads may share it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._client = httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False)
        self._by_the_api = False

    def read(self, copy: str, pods: Sequence[Body]) -> Mapping[Traffic, ServiceCounters]:
        """Return what all pods of a copy that serve say together.

        Raises:
            FleetError: when no pod serves, or one that does cannot be asked: a sum without it would be none.
        """
        serving = sorted((pod for pod in pods if _is_serving(pod)), key=lambda pod: str(pod["metadata"]["name"]))
        if not serving:
            raise FleetError(f"fleet: copy {copy} has no pod that serves")
        told = [self._of(copy, pod) for pod in serving]
        return {traffic: _sum([counters[traffic] for counters in told]) for traffic in Traffic}

    def _of(self, copy: str, pod: Body) -> Mapping[Traffic, ServiceCounters]:
        address = pod["status"]["podIP"]
        try:
            return metrics.parse(self._text(pod["metadata"]["name"], address))
        except (httpx.HTTPError, SlipwayError) as error:
            raise FleetError(
                f"fleet: the pod at {address} of copy {copy} does not tell its metrics: {error}"
            ) from error

    def _text(self, name: str, address: str) -> str:
        if not self._by_the_api:
            try:
                return self._asked_itself(address)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if is_in_a_pod():
                    raise
        text = self._cluster.ask_pod(name, PORT, PATH)
        self._by_the_api = True
        return text

    def _asked_itself(self, address: str) -> str:
        host = f"[{address}]" if ":" in address else address
        return self._client.get(f"http://{host}:{PORT}{PATH}").raise_for_status().text


def _is_serving(pod: Body) -> bool:
    status = pod.get("status", {})
    is_ready = any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in status.get("conditions", ())
    )
    return is_ready and bool(status.get("podIP")) and "deletionTimestamp" not in pod["metadata"]


def _sum(told: Sequence[ServiceCounters]) -> ServiceCounters:
    return ServiceCounters(
        requests=sum(counters.requests for counters in told),
        failed=sum(counters.failed for counters in told),
        answered=sum(counters.answered for counters in told),
        invalid=sum(counters.invalid for counters in told),
        time_to_first_token=_joined([counters.time_to_first_token for counters in told]),
        time_per_output_token=_joined([counters.time_per_output_token for counters in told]),
    )


def _joined(found: Sequence[Histogram]) -> Histogram:
    """Return the sum of histograms; empty when their bounds differ."""
    if len({histogram.bounds for histogram in found}) > 1:
        return Histogram((), ())
    return Histogram(found[0].bounds, tuple(map(sum, zip(*(histogram.counts for histogram in found), strict=True))))
