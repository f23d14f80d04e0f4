"""A Kubernetes cluster for tests: a real API server over HTTP, whose pods are processes on this machine.

    from tests.cluster import Cluster, Faults
    from tests.cluster.kinds import POD

    with Cluster(images=["slipway*"]) as cluster:                # namespaces `default` and `slipway`, one node
        config.load_kube_config(str(cluster.kubeconfig))         # the official clients, the provider, kubectl
        pod = client.CoreV1Api().create_namespaced_pod("slipway", {...})
        wait_for(lambda: cluster.get(POD, "name")["status"]["phase"] == "Succeeded", "the end of the pod")
        assert cluster.log(cluster.get(POD, "name")) == "hello\\n"

**Pods.** A container's command runs as a process of this machine: `python` is the interpreter that runs the tests, the
working folder is the repository (also on PYTHONPATH), and nothing of the test's own environment is passed on. Each pod
has an address of its own in 127.0.0.0/8 (`status.podIP`, the downward API): a server in a pod must bind to that one.
Volumes are folders; paths below a `mountPath` are replaced in arguments and variables (`volumes`). What a container
starts dies with it, and everything dies with the test's process, even if that is killed (`shim`). As in a real
container, a first process that has no handler for SIGTERM does not get it, and is killed after the grace.

**In place of the mounted token** a pod finds KUBECONFIG, with the rights of its service account (RBAC is evaluated
from the Role and RoleBinding objects of the cluster; `cluster.kubeconfig` is the administrator's).

**Bad days.** Unknown image: any that `images` does not match. No such node: `nodeSelector`, tolerations, affinity and
requests are checked against `cluster.add_node(...)`. A namespace labelled for PodSecurity "restricted" takes no other
pods. On request: `cluster.oom_kill(pod)`, `kill`, `evict`, `preempt`, `shut_down_node`;
`cluster.access.forbid("create", "pods")`, `cluster.access.revoke(user)`; ResourceQuota objects;
`cluster.use(Faults(seed, rate=0.1))` for calls that fail, answers and watches that get lost, pods that die.

**Traffic.** `tests.cluster.gateway`: HTTPRoutes in a real Envoy, counts in a real Prometheus.

**What was asked:** `cluster.seen("create", "pods")`. **What there is:** `cluster.events(name)`, `cluster.log(pod)`,
`cluster.pods(**labels)`, `cluster.get(kind, name)`, `cluster.list(kind)`; what these return must not be changed.

**Not here:** cluster DNS, a Service's own address (use its pods' or the Gateway's), images, `exec` and `attach`, the
effect of network policies and of limits, metrics (an autoscaler keeps its bounds).
"""

from tests.cluster.cluster import Cluster
from tests.cluster.faults import Fault, Faults

__all__ = ["Cluster", "Fault", "Faults"]
