"""When a Job has failed: its backoff limit, its deadline, its policy about failed pods."""

from __future__ import annotations

from dataclasses import dataclass

from tests.cluster.selectors import Object

COUNT, IGNORE, FAIL_JOB = "Count", "Ignore", "FailJob"
_DEFAULT_LIMIT = 6


@dataclass(frozen=True)
class Verdict:
    """Why a Job has failed."""

    reason: str
    message: str


def completions(job: Object) -> int:
    """Return how many pods must succeed."""
    spec = job["spec"]
    return int(spec.get("completions", spec.get("parallelism", 1)))


def limit(job: Object, num_failed: int, seconds: float) -> Verdict | None:
    """Return the verdict when too many pods have failed or the time is over."""
    deadline = job["spec"].get("activeDeadlineSeconds")
    if deadline is not None and seconds > deadline:
        return Verdict("DeadlineExceeded", "Job was active longer than specified deadline")
    if num_failed > job["spec"].get("backoffLimit", _DEFAULT_LIMIT):
        return Verdict("BackoffLimitExceeded", "Job has reached the specified backoff limit")
    return None


def judge(job: Object, pod: Object) -> tuple[str, Verdict | None]:
    """Return what the Job's policy does about a failed pod: the first rule that fits decides."""
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules", ())
    for number, rule in enumerate(rules):
        why = _by_exit_code(rule.get("onExitCodes"), pod) or _by_condition(rule.get("onPodConditions", ()), pod)
        if not why:
            continue
        if rule["action"] != FAIL_JOB:
            return str(rule["action"]), None
        message = f"{why} matching FailJob rule at index {number}"
        return FAIL_JOB, Verdict("PodFailurePolicy", message)
    return COUNT, None


def _by_exit_code(rule: Object | None, pod: Object) -> str:
    for status in pod.get("status", {}).get("containerStatuses", ()) if rule else ():
        assert rule is not None
        code = status["state"].get("terminated", {}).get("exitCode", 0)
        if rule.get("containerName") not in (None, status["name"]) or code == 0:
            continue
        if (code in rule["values"]) is (rule["operator"] == "In"):
            name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            return f"Container {status['name']} for pod {name} failed with exit code {code}"
    return ""


def _by_condition(patterns: list[Object], pod: Object) -> str:
    for pattern in patterns:
        for row in pod.get("status", {}).get("conditions", ()):
            if row["type"] == pattern["type"] and row["status"] == pattern.get("status", "True"):
                name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
                return f"Pod {name} has condition {row['type']}"
    return ""
