"""Section about what each work step gets on a cluster; on one machine nothing of it is read.

It is no part of any step's key: more memory gives no other result, so finished work is found again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from pipelines.podspec import step_secret
from pipelines.spec.base import Frozen

Cpu = Annotated[str, Field(pattern=r"^[0-9]+m?$")]
Size = Annotated[str, Field(pattern=r"^[0-9]+(Ki|Mi|Gi|Ti)$")]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""Name of an object in the steps' namespace."""


class Toleration(Frozen):
    """A taint of nodes on which a pod may run, in Kubernetes' words."""

    key: str = ""
    """Key of the taint; empty: every one."""

    operator: Literal["Exists", "Equal"] = "Exists"
    """Whether the taint's value matters."""

    value: str = ""
    """The taint's value, with `Equal`."""

    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Effect of the taint; empty: every one."""


class Volume(Frozen):
    """Something that is mounted into a step's container: a claim or a config map."""

    mount_path: str = Field(pattern=r"^/[^:]*$")
    """Folder in the container."""

    claim: ObjectName | None = None
    """PersistentVolumeClaim."""

    config_map: ObjectName | None = None
    """ConfigMap."""

    is_read_only: bool = True
    """Whether the step may only read it."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.claim is None) == (self.config_map is None):
            raise ValueError("a volume names either claim or config_map")
        return self


class SecretKey(Frozen):
    """A key of a Secret. A spec names secrets; it holds none."""

    name: Annotated[ObjectName, AfterValidator(step_secret)]
    """Secret."""

    key: str = Field(pattern=r"^[-._a-zA-Z0-9]+$")
    """Key in it."""


class Placement(Frozen):
    """On which nodes a pod may run, and before whom."""

    gpu_resource: str = Field(default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")
    """Name under which nodes offer GPUs."""

    node_selector: dict[str, str] = Field(default={})
    """Labels of the nodes on which the pod may run."""

    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes on which the pod may run."""

    affinity: dict[str, Any] = Field(default={})
    """Affinity, as Kubernetes writes it."""

    priority_class: ObjectName | None = None
    """PriorityClass."""

    runtime_class: ObjectName | None = None
    """RuntimeClass."""

    def in_pod(self, node_selector: Mapping[str, str]) -> dict[str, Any]:
        """Return the fields of a pod's spec that say so, with these labels of nodes; only what is said."""
        said = {
            "nodeSelector": dict(node_selector),
            "tolerations": [
                {key: value for key, value in toleration.model_dump().items() if value}
                for toleration in self.tolerations
            ],
            "affinity": self.affinity,
            "priorityClassName": self.priority_class,
            "runtimeClassName": self.runtime_class,
        }
        return {key: value for key, value in said.items() if value}


class StepResources(Placement):
    """What the pod of one step asks for, where it may run and how long."""

    cpu: Cpu = "1"
    """CPU that is kept for the pod."""

    cpu_limit: Cpu | None = None
    """Most CPU; null: what the node has to spare."""

    memory: Size = "2Gi"
    """Memory, requested and at most; a step that takes more is killed."""

    gpus: int = Field(default=0, ge=0, le=64)
    """GPUs."""

    disk: Size = "20Gi"
    """Room for what the step fetches and writes: an emptyDir that goes with the pod."""

    on_demand_node_selector: dict[str, str] = Field(default={})
    """Labels that the last retry asks for as well, or instead: those of nodes that are not taken away."""

    volumes: tuple[Volume, ...] = ()
    """What else is mounted."""

    secrets: dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], SecretKey] = Field(default={})
    """Environment variables that come from Secrets."""

    deadline_seconds: int = Field(default=12 * 3600, ge=60)
    """How long a pod may run; then the cluster ends it, whether anybody watches it or not."""

    schedule_seconds: int = Field(default=900, ge=1)
    """How long a pod may wait for a node."""

    start_seconds: int = Field(default=600, ge=1)
    """How long its image, volumes and containers may take to come up on the node."""

    grace_seconds: int = Field(default=30, ge=1, le=3600)
    """Time between being told to end and being killed."""

    def selected_nodes(self, *, is_last_try: bool) -> dict[str, str]:
        """Return the labels of nodes for a try; the last one does without those that may be taken away."""
        return {**self.node_selector, **(self.on_demand_node_selector if is_last_try else {})}


class TrainingResources(StepResources):
    """What each pod of a training asks for, and how many there are."""

    nodes: int = Field(default=1, ge=1, le=1024)
    """Pods that share out `training.ranks` evenly; several of them, or one in a queue, are an Indexed Job.
    `training.max_restarts` says how often a pod of it that fails is replaced."""

    queue: ObjectName | None = None
    """LocalQueue of Kueue, which lets the training begin when there is room for all of its pods; null: none."""

    cpu: Cpu = "2"
    """CPU that is kept for each pod, shared out to its ranks."""

    memory: Size = "4Gi"
    """Memory of all ranks of a pod together, requested and at most."""

    shared_memory: Size = "1Gi"
    """Size of /dev/shm, by which ranks and data loaders exchange tensors; part of `memory`."""

    deadline_seconds: int = Field(default=14 * 24 * 3600, ge=60)
    """How long a pod may train; a later run goes on from its newest checkpoint."""

    grace_seconds: int = Field(default=120, ge=1, le=3600)
    """Time to finish a step and save a checkpoint when the node is taken away."""


class ResourcesConfig(Frozen):
    """What each step's pod gets."""

    model_config = ConfigDict(serialize_by_alias=True)

    freeze: StepResources = StepResources()
    validate_: StepResources = Field(default=StepResources(), alias="validate")  # pydantic's models have a `validate`
    prepare: StepResources = StepResources()
    train: TrainingResources = TrainingResources()
    evaluate: StepResources = StepResources()
    package: StepResources = StepResources()

    def of(self, step: str) -> StepResources:
        """Return what the pod of a work step gets."""
        found: StepResources = getattr(self, "validate_" if step == "validate" else step)
        return found
