"""What each task of the lifecycle does, for the person who clicks on it."""

from __future__ import annotations

TASKS = {
    "freeze": "Writes the spec and the trigger's params to the store; every later step reads that copy.",
    "validate": "Reads the data source, runs the spec's expectations on it and pins the bytes that passed.",
    "prepare": "Removes duplicates, splits by document, trains or takes the tokenizer, writes token shards.",
    "train": "Trains with torchrun; a retry resumes from the last checkpoint.",
    "evaluate": "Measures against the baseline and the version in production; a refused gate ends the run here.",
    "package": "Builds the bento: weights, tokenizer, provenance, golden and reference requests.",
    "stage": "Opens the rollout and starts the new copy beside the old one; no user reaches it yet.",
    "smoke": "Sends the golden requests through the router to the new copy; every answer must be exact.",
    "backup": "Saves what a rollback or a restore needs: version in production, routes, databases, specs.",
    "warmup": "Sends the first requests to the new copy; no statistics see them.",
    "shadow": "Sends the new copy a mirror of all traffic, and reference requests to both; no user waits for it.",
    "promote": "Moves all users to the new copy and reads again who answers them; the old copy stays warm.",
    "bake": "Watches the new version at 100 %, then drains and stops the old copy.",
    "approve_users": "Asks a person before the first user reaches the new version; looks go on meanwhile.",
    "approve_promotion": "Asks a person before all users reach the new version; looks go on meanwhile.",
    "reap": "Removes pods, Jobs and Services on the cluster that no task waits for.",
    "return": "Returns a service to a version that was in production; aborts a running rollout first.",
    "record": "Reads again what serves and records the release. Fails when anything before it failed.",
    "rollback": "Brings the old version back when the rollout failed. Skipped when there is nothing to take back.",
}
"""By task id, without the group's."""


def task_documentation(task_id: str) -> str:
    """Return what a task does; the steps from weight to weight are named after their percentage."""
    name = task_id.rpartition(".")[2]
    if name.startswith("advance_"):
        weight = int(name.removeprefix("advance_"))
        return f"Moves {weight} % of the users to the new copy and waits until the evidence allows to go on."
    return TASKS[name]
