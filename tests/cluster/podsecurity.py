"""PodSecurity level "restricted", for namespaces whose label asks for it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.cluster.selectors import Object

LABEL = "pod-security.kubernetes.io/enforce"
_VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_PROFILES = ("RuntimeDefault", "Localhost")


def violations(spec: Object) -> Iterator[str]:
    """Yield what a pod's specification does that the level forbids."""
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"host namespaces ({name}=true)"
    for volume in spec.get("volumes") or ():
        for kind in sorted(set(volume) - {"name"} - _VOLUMES):
            yield f'restricted volume types (volume "{volume["name"]}" uses restricted volume type "{kind}")'
    shared = spec.get("securityContext") or {}
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        for problem, way_out in _of_container({**shared, **(container.get("securityContext") or {})}):
            yield f'{problem} (container "{container["name"]}" must set securityContext.{way_out})'


def _of_container(context: Object) -> Iterator[tuple[str, str]]:
    capabilities = context.get("capabilities") or {}
    if context.get("privileged"):
        yield "privileged", "privileged=false"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation != false", "allowPrivilegeEscalation=false"
    if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "unrestricted capabilities", 'capabilities.drop=["ALL"]'
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot != true", "runAsNonRoot=true"
    if context.get("runAsUser") == 0:
        yield "runAsUser=0", "runAsUser to another one"
    if (context.get("seccompProfile") or {}).get("type") not in _PROFILES:
        yield "seccompProfile", 'seccompProfile.type to "RuntimeDefault" or "Localhost"'
