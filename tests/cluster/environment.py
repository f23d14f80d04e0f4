"""The command and the variables of a container, as the kubelet makes them from its specification."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.settings import REPOSITORY
from tests.cluster.quantities import amount
from tests.cluster.selectors import Object
from tests.cluster.store import Store
from tests.cluster.volumes import Mounts, NotReady, content, translate

_REFERENCE = re.compile(r"\$(?P<escaped>\$)?\((?P<name>[-._a-zA-Z][-._a-zA-Z0-9]*)\)")
_KEYED_FIELD = re.compile(r"^metadata\.(?P<which>labels|annotations)\['(?P<key>[^']+)'\]$")


@dataclass(frozen=True)
class Command:
    """What is started."""

    arguments: list[str]
    environment: dict[str, str]
    directory: Path
    mounts: Mounts

    def other(self, words: Sequence[str]) -> list[str]:
        """Return the arguments of another command in the same container, a hook's say."""
        arguments = [translate(word, self.mounts) for word in words]
        return [_interpreter(arguments[0]), *arguments[1:]]


def image_environment(home: Path) -> dict[str, str]:
    """Return what every image sets: the interpreter that runs the tests, and the repository as its code."""
    interpreter = Path(sys.executable).parent
    return {
        "PATH": os.pathsep.join([str(interpreter), "/usr/local/bin", "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "plugins")]),
        "HOME": str(home),
        "LANG": "C.UTF-8",
    }


def field_of(pod: Object, path: str) -> str:
    """Return a field of a pod as the downward API names it."""
    if found := _KEYED_FIELD.match(path):
        return str((pod["metadata"].get(found["which"]) or {}).get(found["key"], ""))
    if path == "status.podIPs":
        path = "status.podIP"
    value: object = pod
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def resource_of(container: Object, path: str, divisor: str) -> str:
    """Return a request or limit of a container, such as `limits.cpu`, rounded up."""
    section, _, name = path.partition(".")
    found = (container.get("resources") or {}).get(section, {}).get(name, "0")
    return str(math.ceil(amount(found) / amount(divisor or "1")))


def command_of(
    store: Store,
    pod: Object,
    container: Object,
    mounts: Mounts,
    *,
    base: Mapping[str, str],
    entrypoint: Sequence[str] = (),
) -> Command:
    """Return what a container runs.

    Args:
        mounts: folders by mount path.
        base: variables of the image and of the cluster; they name this machine's paths, below /tmp too.
        entrypoint: what the image runs when the container has no `command`.

    Raises:
        NotReady: when a Secret or ConfigMap, or a key in it, is missing.
    """
    variables = {**base, **_whole_sources(store, pod, container)}
    for row in container.get("env", ()):
        value = _value(store, pod, container, row)
        if value is not None:
            variables[row["name"]] = expand(value, variables)
    if "/tmp" in mounts:
        variables.setdefault("TMPDIR", "/tmp")
    words = [*(container.get("command") or entrypoint), *container.get("args", ())]
    arguments = [translate(expand(word, variables), mounts) for word in words]
    own = {name: translate(value, mounts) for name, value in variables.items() if base.get(name) != value}
    return Command(
        arguments=[_interpreter(arguments[0]), *arguments[1:]] if arguments else [],
        environment={**base, **own},
        directory=_directory(container, mounts),
        mounts=mounts,
    )


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with `$(NAME)` replaced by variables; `$$(NAME)` stays `$(NAME)`, and so do unknown names."""

    def replaced(found: re.Match[str]) -> str:
        if found["escaped"]:
            return found[0][1:]
        return variables.get(found["name"], found[0])

    return _REFERENCE.sub(replaced, text)


def _interpreter(program: str) -> str:
    return sys.executable if program in ("python", "python3") else program


def _directory(container: Object, mounts: Mounts) -> Path:
    wanted = Path(translate(container.get("workingDir", ""), mounts))
    return wanted if wanted.is_absolute() and wanted.is_dir() else REPOSITORY


def _whole_sources(store: Store, pod: Object, container: Object) -> dict[str, str]:
    variables: dict[str, str] = {}
    for row in container.get("envFrom", ()):
        is_secret = "secretRef" in row
        source = row["secretRef"] if is_secret else row["configMapRef"]
        try:
            found = content(store, is_secret, pod["metadata"]["namespace"], source["name"])
        except NotReady:
            if source.get("optional"):
                continue
            raise
        variables |= {row.get("prefix", "") + key: value.decode() for key, value in found.items()}
    return variables


def _value(store: Store, pod: Object, container: Object, row: Object) -> str | None:
    source = row.get("valueFrom")
    if not source:
        return str(row.get("value", ""))
    readers: dict[str, Callable[[Object], str | None]] = {
        "fieldRef": lambda ref: field_of(pod, ref["fieldPath"]),
        "resourceFieldRef": lambda ref: resource_of(container, ref["resource"], ref.get("divisor", "1")),
        "secretKeyRef": lambda ref: _key(store, pod, ref, is_secret=True),
        "configMapKeyRef": lambda ref: _key(store, pod, ref, is_secret=False),
    }
    name = next(name for name in readers if source.get(name))
    return readers[name](source[name])


def _key(store: Store, pod: Object, ref: Object, *, is_secret: bool) -> str | None:
    namespace, kind = pod["metadata"]["namespace"], "Secret" if is_secret else "ConfigMap"
    try:
        found = content(store, is_secret, namespace, ref["name"])
        if ref["key"] not in found:
            raise NotReady(f"couldn't find key {ref['key']} in {kind} {namespace}/{ref['name']}")
    except NotReady:
        if ref.get("optional"):
            return None
        raise
    return found[ref["key"]].decode()
