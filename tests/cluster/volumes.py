"""Volumes of a pod as folders, and what takes the place of a mount: a container's paths are translated.

A mount namespace would be closer to the real thing, but it needs rights that a test may not have, and it would hide the
machine's own /tmp with the tests' stores. So every path below a `mountPath` in a container's arguments and variables is
replaced by the folder. A path that a program makes up itself is not; TMPDIR names the folder that is mounted at /tmp.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.cluster.kinds import CONFIG_MAP, SECRET
from tests.cluster.selectors import Object
from tests.cluster.store import Store

Mounts = Mapping[str, Path]


class NotReady(Exception):
    """Something that a pod needs is not there."""


def decoded(secret: Object) -> dict[str, bytes]:
    """Return the content of a Secret."""
    plain = {key: value.encode() for key, value in (secret.get("stringData") or {}).items()}
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()} | plain


def content(store: Store, is_secret: bool, namespace: str, name: str) -> dict[str, bytes]:
    """Return the content of a Secret or ConfigMap.

    Raises:
        NotReady: when there is none.
    """
    kind = SECRET if is_secret else CONFIG_MAP
    found = store.find(kind, namespace, name)
    if found is None:
        raise NotReady(f'{kind.name.lower()} "{name}" not found')
    if is_secret:
        return decoded(found)
    return {key: value.encode() for key, value in (found.get("data") or {}).items()}


class Volumes:
    """The volumes of one pod."""

    def __init__(
        self, store: Store, pod: Object, folder: Path, claims: Path, field: Callable[[Object, str], str]
    ) -> None:
        self._store = store
        self._pod = pod
        self._folder = folder
        self._claims = claims
        self._field = field

    def prepare(self) -> None:
        """Make all folders.

        Raises:
            NotReady: when a Secret or a ConfigMap is missing.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for volume in self._pod["spec"].get("volumes", ()):
            self._fill(volume, self.folder_of(volume))

    def mounts(self, container: Object) -> dict[str, Path]:
        """Return the folders of a container by mount path."""
        volumes = {volume["name"]: volume for volume in self._pod["spec"].get("volumes", ())}
        found = {}
        for mount in container.get("volumeMounts", ()):
            path = self.folder_of(volumes[mount["name"]]) / mount.get("subPath", "")
            found[mount["mountPath"].rstrip("/")] = path
        return found

    def folder_of(self, volume: Object) -> Path:
        """Return where a volume is."""
        if "hostPath" in volume:
            return Path(str(volume["hostPath"]["path"]))
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            return self._claims / str(self._pod["metadata"]["namespace"]) / str(claim)
        return self._folder / str(volume["name"])

    def _fill(self, volume: Object, folder: Path) -> None:
        if "hostPath" not in volume:
            folder.mkdir(parents=True, exist_ok=True)
        for source in [volume, *volume.get("projected", {}).get("sources", ())]:
            for name, data in self._files(source).items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def _files(self, source: Object) -> dict[str, bytes]:
        if "downwardAPI" in source:
            return {row["path"]: self._field(self._pod, row["fieldRef"]["fieldPath"]).encode()
                    for row in source["downwardAPI"].get("items", ())}  # fmt: skip
        for field, is_secret in (("secret", True), ("configMap", False)):
            if field in source:
                return self._keys(source[field], is_secret)
        return {}

    def _keys(self, source: Object, is_secret: bool) -> dict[str, bytes]:
        name = source.get("secretName") or source["name"]
        try:
            found = content(self._store, is_secret, self._pod["metadata"]["namespace"], name)
        except NotReady:
            if source.get("optional"):
                return {}
            raise
        if "items" not in source:
            return found
        missing = [row["key"] for row in source["items"] if row["key"] not in found]
        if missing and not source.get("optional"):
            raise NotReady(f"references non-existent secret key: {missing[0]}")
        return {row["path"]: found[row["key"]] for row in source["items"] if row["key"] in found}


def translate(text: str, mounts: Mounts) -> str:
    """Return a text in which paths below mounts are paths on this machine; `file://` URLs stay as they are."""
    longest_first = "|".join(re.escape(path) for path in sorted(mounts, key=len, reverse=True))
    pattern = rf"(?<![^=:,;\s'\"])(?:{longest_first})(?=$|[/:,;\s'\"])"
    return re.sub(pattern, lambda found: str(mounts[found[0]]), text) if mounts else text
