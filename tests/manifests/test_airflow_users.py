"""Airflow's own login works with the volumes that the values give to its API server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.settings import REPOSITORY
from tests.cluster.volumes import translate
from tests.manifests.rendered import MANIFESTS, Body

VALUES = yaml.safe_load((MANIFESTS / "airflow" / "values.yaml").read_text(encoding="utf-8"))
SERVER = VALUES["apiServer"]
PASSWORD = "correct-horse"

LOGIN = f"""
from airflow.api_fastapi.app import init_auth_manager
from airflow.api_fastapi.auth.managers.simple.datamodels.login import LoginBody
from airflow.api_fastapi.auth.managers.simple.services.login import SimpleAuthManagerLogin

manager = init_auth_manager()
token = SimpleAuthManagerLogin.create_token(LoginBody(username="admin", password="{PASSWORD}"))
print("logged in", manager.get_users()[0].username, len(token.split(".")))
"""


@pytest.fixture
def volumes(tmp_path: Path) -> dict[str, Path]:
    """Return the volumes of an API server's pod as folders; nothing in one of a Secret can be written."""
    folders = {volume["name"]: tmp_path / volume["name"] for volume in (*VALUES["volumes"], *SERVER["extraVolumes"])}
    for volume in (*VALUES["volumes"], *SERVER["extraVolumes"]):
        folder = folders[volume["name"]]
        folder.mkdir()
        if "secret" in volume:
            (folder / "passwords.json").write_text(json.dumps({"admin": PASSWORD}))
            (folder / "passwords.json").chmod(0o440)
            folder.chmod(0o550)
    return folders


def mounts(volumes: dict[str, Path], mounted: list[Body]) -> dict[str, Path]:
    """Return the folders of a container by mount path."""
    return {mount["mountPath"]: volumes[mount["name"]] for mount in mounted}


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a restricted container does: not even root then writes what it has no right to."""
    restricted = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"] if os.geteuid() == 0 else []
    return subprocess.run(
        [*restricted, *command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **environment},
    )


def log_in(home: Path, passwords_file: str) -> subprocess.CompletedProcess[str]:
    """Start Airflow's auth manager as the values configure it, with a file of passwords, and log in."""
    core = VALUES["config"]["core"]
    return run(
        [sys.executable, "-c", LOGIN],
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__AUTH_MANAGER=core["auth_manager"],
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS=core["simple_auth_manager_users"],
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE=passwords_file,
        AIRFLOW__API_AUTH__JWT_SECRET="of-this-test-and-of-nothing-else-0123456789",
    )


def test_a_user_logs_in_with_the_password_of_the_secret(volumes: dict[str, Path], tmp_path: Path) -> None:
    for container in SERVER["extraInitContainers"]:
        mounted = mounts(volumes, container["volumeMounts"])
        done = run([translate(word, mounted) for word in container["command"]])
        assert done.returncode == 0, done.stderr

    mounted = mounts(volumes, [*VALUES["volumeMounts"], *SERVER.get("extraVolumeMounts", ())])
    option = VALUES["config"]["core"]["simple_auth_manager_passwords_file"]
    assert translate(option, mounted) != option, "it is in none of the volumes"
    done = log_in(tmp_path / "home", translate(option, mounted))
    assert "logged in admin 3" in done.stdout, done.stderr


def test_from_the_volume_of_the_secret_airflow_would_not_even_start(volumes: dict[str, Path], tmp_path: Path) -> None:
    done = log_in(tmp_path / "home", str(volumes["users"] / "passwords.json"))

    assert done.returncode != 0
    assert "PermissionError" in done.stderr


def test_only_the_copying_container_sees_the_secret() -> None:
    (copying,) = SERVER["extraInitContainers"]
    secret = [volume["name"] for volume in SERVER["extraVolumes"] if "secret" in volume]

    assert [mount["name"] for mount in copying["volumeMounts"] if mount["name"] in secret] == ["users"]
    assert not [mount for mount in SERVER.get("extraVolumeMounts", ()) if mount["name"] in secret]
