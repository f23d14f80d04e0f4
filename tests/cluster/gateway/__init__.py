"""Envoy Gateway and Prometheus on the tests' cluster: routes in force in a real Envoy, counts by a real Prometheus.

    with Cluster(namespaces=("slipway", "envoy-gateway-system")) as cluster, EnvoyGateway(cluster) as gateway:
        gateway.install()                                         # a GatewayClass, and a Gateway for all namespaces
        with LivePrometheus(cluster, gateway) as prometheus:      # @pytest.mark.needs("prometheus")
            cluster.create({"kind": "HTTPRoute", ...})
            httpx.get(f"http://{gateway.address}:{gateway.port}/", headers={"Host": "docs"})
            prometheus.query('envoy_cluster_upstream_rq_xx{envoy_response_code_class="2"}')

The clusters, and so the metrics, have the names that Envoy Gateway gives: `httproute/<namespace>/<name>/rule/<i>` for
a whole rule, whose backends cannot be told apart then; `.../rule/<i>/backend/<j>` for each backend when one of them has
a filter; `.../rule/<i>-mirror-<k>` for the filter `k` of a rule that mirrors. A backend of weight 0 has no cluster.
(Its translator's own test data says so: `internal/xds/translator/testdata`, `http-route-weighted-backend*`.)
"""

from tests.cluster.gateway.controller import EnvoyGateway
from tests.cluster.gateway.monitoring import LivePrometheus

__all__ = ["EnvoyGateway", "LivePrometheus"]
