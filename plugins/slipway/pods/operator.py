"""A work step as a pod. The pod runs what a process on one machine runs; its receipt in the store is the only result.

The provider makes, follows and ends the pod. What is said here: what the pod is made of, that one which still runs is
taken up again rather than made twice, and why one failed. The provider's own word on success is not believed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Never

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import PodLaunchFailedException
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodLaunchTimeoutException, PodNotFoundException
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException
from airflow.triggers.base import BaseTrigger
from kubernetes.client import ApiException
from kubernetes.client import models as k8s

from pipelines import labels
from pipelines.cluster.access import access
from pipelines.errors import PodLost, PodRefused, ReceiptMissing, SlipwayError
from pipelines.pods.failures import Case, explain, gone
from pipelines.pods.manifest import CONTAINER, check_store, step_pod
from pipelines.runner import StepTry
from pipelines.settings import Settings
from pipelines.spec import ModelSpec, StepResources
from pipelines.step import RunInfo, read_spec
from pipelines.store import Store
from slipway.aws import use_connection
from slipway.docs import task_documentation
from slipway.errors import translated
from slipway.operators import finished
from slipway.pods.cluster import case_of, check_gpus, events_of, refusals_told, useful_pod
from slipway.pods.starting import StepPodManager, StepPodTrigger
from slipway.requests import Request, request_of
from slipway.retries import is_last_try

RECEIPT_KEY = "return_value"
"""Under which Airflow keeps what a task returns."""

TRY = "slipway_try"
"""Field of a trigger's event: the try whose pod is watched."""

CHECK_SECONDS = 1
"""Between two looks at a pod."""

LOG_SECONDS = 5
"""How far the log in Airflow's UI may be behind the pod's while the task is deferred."""


class StepPodOperator(KubernetesPodOperator):
    """Run the work step that is named like the task, as a pod."""

    ui_color = "#dbeafe"
    template_fields: Sequence[str] = ()  # params are data: nothing of a pod is rendered
    template_fields_renderers: ClassVar[dict[str, str]] = {}

    _request: Request
    _resources: StepResources
    _inputs: Mapping[str, Any]

    def __init__(
        self, *, task_id: str, model: str = "", spec_file: str = "", deferrable: bool = True, **kwargs: Any
    ) -> None:
        """Take what the DAG's default arguments say, beside Airflow's own arguments."""
        found = access(Settings())
        super().__init__(
            task_id=task_id,
            doc_md=task_documentation(task_id),
            kubernetes_conn_id=None,
            in_cluster=found.is_in_cluster or None,
            cluster_context=found.context,
            config_file=found.file,
            random_name_suffix=False,
            base_container_name=CONTAINER,
            termination_message_policy="FallbackToLogsOnError",
            do_xcom_push=False,  # no sidecar; the receipt is pushed by `_concluded`
            deferrable=deferrable,
            poll_interval=CHECK_SECONDS,
            startup_check_interval_seconds=CHECK_SECONDS,
            base_container_status_polling_interval=CHECK_SECONDS,
            logging_interval=LOG_SECONDS,
            container_name_log_prefix_enabled=False,
            log_pod_spec_on_failure=False,
            **kwargs,
        )
        self.model = model
        self.spec_file = spec_file
        self._pod_name, self._pod_try = "", 0
        self._gave_up = False
        self._succeeded = False

    def pre_execute(self, context: Context) -> None:
        """Find the store's credentials for this task; the pod has its own."""
        use_connection(Settings().aws_conn_id)

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Run the step and return its receipt, or give the worker back until the pod has ended."""
        settings = Settings()
        with self._translated(context, settings):
            check_store(settings)
            self._request = request_of(self, context, settings)
            self._inputs = self._request.inputs(settings)
            self._resources = self._read_resources(settings)
            return self._run(context, settings)

    def trigger_reentry(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Go on when the trigger fired: pod and receipt say what happened, not the event."""
        settings = Settings()
        self._pod_name = event["name"]
        with self._translated(context, settings):
            self._request = request_of(self, context, settings)
            self._resources = self._read_resources(settings)
            self._pod_try = event[TRY]
            self.trigger_kwargs = {TRY: self._pod_try}  # for a trigger that takes over from this one
            self._gave_up = event["status"] in {"timeout", "error"}
            return self._followed(context, lambda: super(StepPodOperator, self).trigger_reentry(context, event))

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Context) -> k8s.V1Pod:
        """Take up this task's pod if one runs or has just succeeded, whichever try made it; else make this try's."""
        pod = self._own_pod()
        if pod is None:
            StepTry(self.task_id, self._request.spec_uri, self._request.info, Settings()).begin(self._inputs)
            pod = self._create(pod_request_obj)
        else:
            self.log.info("going on with pod %s of try %s", pod.metadata.name, pod.metadata.labels[labels.TRY])
        self._pod_name, self._pod_try = pod.metadata.name, int(pod.metadata.labels[labels.TRY])
        self.trigger_kwargs = {TRY: self._pod_try}
        self.pod = pod  # it is removed if the task is killed meanwhile
        self._check_gpus(pod)
        return pod

    def find_pod(self, namespace: str, context: Context, *, exclude_checked: bool = True) -> k8s.V1Pod | None:
        """Return this task's pod as it is now."""
        return None if self.pod is None else self.hook.get_pod(self.pod.metadata.name, namespace)

    def defer(self, *, trigger: BaseTrigger, **arguments: Any) -> Never:
        """Give the worker back; a pod is waited for by our own trigger."""
        own = StepPodTrigger.of(trigger) if isinstance(trigger, KubernetesPodTrigger) else trigger
        super().defer(trigger=own, **arguments)

    @cached_property
    def pod_manager(self) -> StepPodManager:
        """What makes the pod, and reads it while the task waits in this process."""
        return StepPodManager(kube_client=self.client)

    def await_pod_start(self, pod: k8s.V1Pod) -> None:
        """Wait until the pod has started; remember when the wait was given up."""
        try:
            super().await_pod_start(pod)
        except (PodLaunchFailedException, PodLaunchTimeoutException):
            self._gave_up = True
            raise

    def convert_config_file_to_dict(self) -> None:
        """Leave the kubeconfig where it is: the triggerer has its own, and credentials stay out of the database."""
        self._config_dict = None

    def cleanup(
        self,
        pod: k8s.V1Pod,
        remote_pod: k8s.V1Pod,
        xcom_result: dict[str, Any] | None = None,
        context: Context | None = None,
    ) -> None:
        """Remove the pod, and say why it failed. One that still runs is left for the next try to take up.

        Raises:
            SlipwayError: when it failed.
        """
        if self._killed or self.pod is None or context is None:
            return
        case = case_of(self.client, self.pod, self.task_id, self._resources)
        if case is None:
            return
        self._succeeded = case.status.get("phase") == "Succeeded"
        problem = explain(case, gave_up=self._gave_up)
        is_last = is_last_try(context["ti"].try_number, context["ti"].max_tries)
        if self._succeeded or problem or self._gave_up or is_last:
            self.process_pod_deletion(self.pod, reraise=False)
        if problem:
            raise problem

    def _run(self, context: Context, settings: Settings) -> dict[str, Any] | None:
        self._order(context, settings)
        if self.deferrable:
            super().execute(context)
            return None
        return self._followed(context, lambda: super(StepPodOperator, self).execute(context))

    def _order(self, context: Context, settings: Settings) -> None:
        """Say what the pod is made of, and how long the provider waits for it."""
        resources, request = self._resources, self._request
        arguments = StepTry(self.task_id, request.spec_uri, request.info, settings).arguments
        is_last = is_last_try(context["ti"].try_number, context["ti"].max_tries)
        self.pod_template_dict = step_pod(arguments, request.info, resources, settings, is_last_try=is_last)
        self.schedule_timeout_seconds = resources.schedule_seconds
        self.startup_timeout_seconds = resources.start_seconds
        self.termination_grace_period = resources.grace_seconds

    def _read_resources(self, settings: Settings) -> StepResources:
        return self._read_spec(settings).resources.of(self.task_id)

    def _read_spec(self, settings: Settings) -> ModelSpec:
        return read_spec(Store(settings.store_url()), self._request.spec_uri)

    def _own_pod(self) -> k8s.V1Pod | None:
        namespace = Settings().kubernetes_namespace
        info = self._request.info
        found_by = labels.step_labels(info.model, info.run_id, info.task_id, info.try_number)
        del found_by[labels.TRY]
        with refusals_told(f"list pods in namespace {namespace}", Settings()):
            return useful_pod(self.client, found_by, namespace)

    def _create(self, pod: k8s.V1Pod) -> k8s.V1Pod:
        """Make a pod; one of its name that is there already is ours, made by a request whose answer was lost."""
        name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        with refusals_told(f"create pod {name}", Settings()):
            try:
                return self.pod_manager.create_pod(pod)
            except ApiException as error:
                if error.status != 409:
                    raise
        found = self._own_pod()
        if found is None:
            raise PodLost(f"{self.task_id}: pod {name} of this try is still ending; it is tried again")
        return found

    def _check_gpus(self, pod: k8s.V1Pod) -> None:
        def look() -> list[Case]:
            case = case_of(self.client, pod, self.task_id, self._resources)
            return [case] if case else []

        try:
            check_gpus(self.client, look, self._resources)
        except PodRefused:
            self.process_pod_deletion(pod, reraise=False)
            raise

    def _followed(self, context: Context, follow: Callable[[], object]) -> dict[str, Any]:
        """Follow the pod to its end, and return its receipt."""
        is_gone = False
        try:
            follow()
        except PodNotFoundException:
            is_gone = True
        except ApiException as error:
            if error.status != 404 or self.pod is None:
                raise
            is_gone = True
        except AirflowException as error:
            if not self._succeeded:
                raise
            self.log.warning("the pod succeeded, although following it failed: %s", error)
        return self._concluded(context, is_gone=is_gone)

    def _concluded(self, context: Context, *, is_gone: bool) -> dict[str, Any]:
        """Read the receipt of the try whose pod it was, and keep it where later tasks look for it.

        Raises:
            PodLost: when the pod is gone without it.
            ReceiptMissing: when the pod ended well without it.
        """
        try:
            return self._kept_receipt(context)
        except ReceiptMissing:
            if is_gone:
                raise self._lost() from None
            raise

    def _kept_receipt(self, context: Context) -> dict[str, Any]:
        info: RunInfo = self._request.info.model_copy(update={"try_number": self._pod_try})
        content = finished(self, context, StepTry(self.task_id, self._request.spec_uri, info, Settings()).receipt())
        context["ti"].xcom_push(key=RECEIPT_KEY, value=content)
        return content

    def _lost(self) -> SlipwayError:
        namespace = Settings().kubernetes_namespace
        events = events_of(self.client, self._pod_name, namespace)
        return gone(self.task_id, f"{namespace}/{self._pod_name}", events)

    @contextlib.contextmanager
    def _translated(self, context: Context, settings: Settings) -> Iterator[None]:
        with translated(context["ti"], self.retries or 0), refusals_told(f"run the pod of {self.task_id}", settings):
            yield
