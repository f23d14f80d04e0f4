"""A step's pod as a container of a docker engine: the same command, variables, volumes and restrictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from images.engine import Engine
from pipelines.lifecycle import inputs_of
from pipelines.pods.manifest import step_pod
from pipelines.runner import StepTry
from pipelines.settings import Settings
from pipelines.spec import StepResources
from pipelines.step import Receipt, RunInfo
from pipelines.store import Store

STORE = Path("/store")
"""Where containers have the shared folder."""

SPEC = "/opt/slipway/dags/models/docs_gpt.yaml"
"""The demo's spec in the image."""


class Pods:
    """Runs steps of one run in containers."""

    def __init__(self, engine: Engine, image: str, folder: Path) -> None:
        folder.mkdir()
        folder.chmod(0o777)  # the account of the containers is nobody here
        self._engine = engine
        self._folder = folder
        self._inside = Settings(platform="kubernetes", step_image=image, store=f"file://{STORE}")
        self._outside = Settings(store=f"file://{folder}")
        self._receipts: dict[str, Receipt] = {}

    @property
    def store(self) -> Store:
        """The shared folder."""
        return Store(self._outside.store_url())

    def run(self, step: str) -> Receipt:
        """Run a step in a container and return the receipt that it left.

        Raises:
            EngineError: when the container fails.
        """
        info = RunInfo(model="docs-gpt", run_id="images", task_id=step)
        attempt = StepTry(step, self._spec_uri(), info, self._outside)
        attempt.begin({} if step == "freeze" else inputs_of(step, self._receipts, lambda: None))
        self._open()
        pod = step_pod(attempt.arguments, info, StepResources(), self._inside, is_last_try=False)
        self._engine.call("run", *options_of(pod), f"--volume={self._folder}:{STORE}", *command_of(pod))
        self._receipts[step] = attempt.receipt()
        return self._receipts[step]

    def _spec_uri(self) -> str:
        if "freeze" not in self._receipts:
            return SPEC
        frozen = self._receipts["freeze"].result["spec"]
        return f"artifacts/{frozen['kind']}/{frozen['digest']}"

    def _open(self) -> None:
        """Let the containers' account write beside what was written here."""
        for path in self._folder.rglob("*"):
            path.chmod(path.stat().st_mode | (0o777 if path.is_dir() else 0o666))


def options_of(pod: dict[str, Any]) -> list[str]:
    """Return a pod's restrictions, variables and volumes as options of `docker run`."""
    (container,) = pod["spec"]["containers"]
    account, rights = pod["spec"]["securityContext"], container["securityContext"]
    user = f"{account['runAsUser']}:{account['runAsGroup']}"
    assert rights["readOnlyRootFilesystem"]
    assert not rights["allowPrivilegeEscalation"]
    return [
        *("--rm", "--network=none", "--read-only", "--security-opt=no-new-privileges", f"--user={user}"),
        *(f"--cap-drop={name}" for name in rights["capabilities"]["drop"]),
        *(f"--env={entry['name']}={entry['value']}" for entry in container["env"] if "value" in entry),
        "--env=SLIPWAY_CORES=1",
        *(
            f"--tmpfs={mount['mountPath']}:rw,uid={account['runAsUser']},gid={account['fsGroup']},mode=2777"
            for mount in container["volumeMounts"]
        ),
    ]


def command_of(pod: dict[str, Any]) -> list[str]:
    """Return image, command and arguments of a pod's container."""
    (container,) = pod["spec"]["containers"]
    (python,) = container["command"]
    return [f"--entrypoint={python}", container["image"], *container["args"]]
