"""Jobs: pods until so many have succeeded, indexed or not, as far as failures are allowed."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from tests.cluster import deletion, events, jobrules, ownership
from tests.cluster.kinds import JOB, POD
from tests.cluster.podstatus import FAILED, SUCCEEDED, with_condition
from tests.cluster.selectors import Object
from tests.cluster.store import Store, now, random_suffix

INDEX = "batch.kubernetes.io/job-completion-index"
_COMPONENT = "job-controller"
_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 10.0, 600.0


@dataclass
class Tally:
    """What became of the pods of one Job."""

    begin: float = field(default_factory=time.monotonic)
    known: dict[str, Object] = field(default_factory=dict)
    """Pods that are not counted yet, by their uid, as they were last seen."""

    counted: set[str] = field(default_factory=set)
    succeeded: list[int] = field(default_factory=list)
    """Index of each pod that succeeded."""

    failed: int = 0
    due: float = 0.0
    """Earliest moment of the next pod, after a failure."""

    verdict: jobrules.Verdict | None = None


class Jobs:
    """The controller of Jobs."""

    def __init__(self, store: Store, speed: float) -> None:
        self._store = store
        self._speed = speed
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)

    def reconcile(self) -> None:
        """Look at every Job."""
        for job in self._store.list(JOB):
            if not job["metadata"].get("deletionTimestamp"):
                self._look(job, self._tallies[job["metadata"]["uid"]])

    def _look(self, job: Object, tally: Tally) -> None:
        if _is_finished(job):
            self._expire(job)
            return
        pods = ownership.owned(self._store, POD, job)
        self._count(job, tally, pods)
        active = [pod for pod in pods if ownership.is_active(pod)]
        ending = [pod for pod in pods if pod["metadata"].get("deletionTimestamp")]
        verdict = tally.verdict or jobrules.limit(job, tally.failed, time.monotonic() - tally.begin)
        tally.verdict = verdict
        is_done = len(set(tally.succeeded) if _is_indexed(job) else tally.succeeded) >= jobrules.completions(job)
        if verdict or is_done or job["spec"].get("suspend"):
            self._delete(active)
        elif time.monotonic() >= tally.due:
            self._make(job, tally, pods)
        left = [*active, *ending]
        self._tell(job, tally, pods, None if left else verdict, is_done and not left)

    def _count(self, job: Object, tally: Tally, pods: list[Object]) -> None:
        """Count pods that are over; one that was deleted before it was over has failed."""
        present = {pod["metadata"]["uid"]: pod for pod in pods}
        vanished = [pod for uid, pod in tally.known.items() if uid not in present]
        tally.known = {uid: pod for uid, pod in present.items() if uid not in tally.counted}
        over = [pod for pod in tally.known.values() if ownership.phase(pod) in (SUCCEEDED, FAILED)]
        for pod in (*over, *vanished):
            uid = pod["metadata"]["uid"]
            tally.counted.add(uid)
            tally.known.pop(uid, None)
            if ownership.phase(pod) == SUCCEEDED:
                tally.succeeded.append(_index(pod))
            elif not job["spec"].get("suspend") and not tally.verdict:
                self._fail(job, tally, pod)

    def _fail(self, job: Object, tally: Tally, pod: Object) -> None:
        action, verdict = jobrules.judge(job, pod)
        tally.verdict = verdict
        if action == jobrules.IGNORE:
            return
        tally.failed += 1
        seconds = min(_BACKOFF_SECONDS * 2 ** (tally.failed - 1), _MAX_BACKOFF_SECONDS)
        tally.due = time.monotonic() + seconds / self._speed

    def _make(self, job: Object, tally: Tally, pods: list[Object]) -> None:
        """Make the pods that are missing; an index gets a new one when its old one is over."""
        current = [pod for pod in pods if ownership.phase(pod) not in (SUCCEEDED, FAILED)]
        num_wanted = min(job["spec"].get("parallelism", 1), jobrules.completions(job) - len(tally.succeeded))
        if not _is_indexed(job):
            for _ in range(num_wanted - len(current)):
                self._make_pod(job, None)
            return
        busy = {_index(pod) for pod in current} | set(tally.succeeded)
        free = [index for index in range(jobrules.completions(job)) if index not in busy]
        for index in free[: max(0, num_wanted - len(current))]:
            self._make_pod(job, index)

    def _make_pod(self, job: Object, index: int | None) -> None:
        name = job["metadata"]["name"]
        if index is None:
            changes: Object = {"generateName": f"{name}-"}
            labels: Object = {}
        else:
            labels = {INDEX: str(index)}
            spec = _with_index(job["spec"]["template"]["spec"], index)
            changes = {"name": f"{name}-{index}-{random_suffix()}", "annotations": labels, "spec": spec}
            spec["hostname"] = f"{name}-{index}"
        uid = job["metadata"]["uid"]
        labels |= {"job-name": name, "batch.kubernetes.io/job-name": name}
        labels |= {"controller-uid": uid, "batch.kubernetes.io/controller-uid": uid}
        ownership.make_pod(self._store, JOB, job, changes, labels=labels, component=_COMPONENT)

    def _delete(self, pods: list[Object]) -> None:
        for pod in pods:
            deletion.delete(self._store, POD, pod["metadata"]["namespace"], pod["metadata"]["name"], {})

    def _tell(
        self, job: Object, tally: Tally, pods: list[Object], verdict: jobrules.Verdict | None, is_done: bool
    ) -> None:
        active = [pod for pod in pods if ownership.is_active(pod)]
        counts: Object = {
            "active": len(active),
            "ready": sum(ownership.is_ready(pod) for pod in active),
            "succeeded": len(tally.succeeded),
            "failed": tally.failed,
            "terminating": sum("deletionTimestamp" in pod["metadata"] for pod in pods),
        }
        if _is_indexed(job):
            counts["completedIndexes"] = _ranges(tally.succeeded)
        is_suspended = bool(job["spec"].get("suspend"))

        def change(draft: Object) -> None:
            status = {"startTime": now(), **draft.get("status", {}), **counts}
            rows = status.get("conditions", [])
            if is_suspended or any(row["type"] == "Suspended" for row in rows):
                rows = with_condition(
                    rows, "Suspended", is_suspended, reason="JobSuspended" if is_suspended else "JobResumed"
                )
            if verdict:
                rows = with_condition(rows, "Failed", True, reason=verdict.reason, message=verdict.message)
            elif is_done:
                rows = with_condition(rows, "Complete", True, reason="CompletionsReached")
                status["completionTime"] = now()
            draft["status"] = {**status, "conditions": rows}

        self._store.set_status(JOB, job["metadata"]["namespace"], job["metadata"]["name"], change)
        if verdict:
            said = (events.WARNING, verdict.reason, verdict.message)
            events.record(self._store, JOB, job, said, component=_COMPONENT)

    def _expire(self, job: Object) -> None:
        """Delete a Job that has been finished for long enough."""
        seconds = job["spec"].get("ttlSecondsAfterFinished")
        tally = self._tallies[job["metadata"]["uid"]]
        if seconds is None:
            return
        if not tally.due or tally.verdict is not _EXPIRING:
            tally.verdict, tally.due = _EXPIRING, time.monotonic() + seconds
        if time.monotonic() >= tally.due:
            options = {"propagationPolicy": "Background"}
            deletion.delete(self._store, JOB, job["metadata"]["namespace"], job["metadata"]["name"], options)


_EXPIRING = jobrules.Verdict("Expiring", "")


def _is_finished(job: Object) -> bool:
    rows = job.get("status", {}).get("conditions", ())
    return any(row["type"] in ("Complete", "Failed") and row["status"] == "True" for row in rows)


def _is_indexed(job: Object) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def _index(pod: Object) -> int:
    return int((pod["metadata"].get("annotations") or {}).get(INDEX, -1))


def _with_index(spec: Object, index: int) -> Object:
    """Return the parts of a pod's specification that tell its containers which index they are."""
    row = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
    return {
        section: [{**container, "env": [*container.get("env", ()), row]} for container in spec.get(section, ())]
        for section in ("initContainers", "containers")
        if spec.get(section)
    }


def _ranges(indexes: list[int]) -> str:
    """Return indexes as a Job's status writes them, such as `0-2,5`."""
    parts: list[list[int]] = []
    for index in sorted(set(indexes)):
        if parts and parts[-1][-1] == index - 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
