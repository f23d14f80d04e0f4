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
    "promote": "Moves the users to the new copy, verifies who answers them, drains and stops the old one.",
    "record": "Reads again what serves and records the release. Fails when anything before it failed.",
    "rollback": "Brings the old version back when the rollout failed. Skipped when there is nothing to take back.",
}
"""By task id, without the group's."""
