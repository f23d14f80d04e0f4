"""The values for Airflow's chart agree with the images, the accounts and Airflow itself."""

from __future__ import annotations

import functools
import runpy
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from pipelines.podspec import USER, container_security, pod_security
from pipelines.settings import REPOSITORY
from pipelines.stack.airflow import POOLS
from tests.manifests.rendered import MANIFESTS, OVERLAYS, Body, named, of_kind, settings_of, values_of

FOLDER = MANIFESTS / "airflow"
COMPONENTS = ("apiServer", "dagProcessor", "migrateDatabaseJob", "scheduler", "triggerer", "workers")

both = pytest.mark.parametrize("overlay", OVERLAYS)


@functools.cache
def values(overlay: str) -> Body:
    """Return the values as Helm merges them for an overlay."""
    return values_of(FOLDER / "values.yaml", FOLDER / f"values-{overlay}.yaml")


def locked(distribution: str) -> str:
    """Return the version in the lock."""
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{distribution}=="))


@both
def test_the_chart_is_told_the_version_that_is_in_the_image(overlay: str) -> None:
    assert values(overlay)["airflowVersion"] == locked("apache-airflow")


@both
def test_airflow_runs_from_the_image_that_the_controller_runs_from(overlay: str) -> None:
    pod = named(overlay, "Deployment", "slipway-controller")["spec"]["template"]["spec"]
    chart = values(overlay)

    image = f"{chart['defaultAirflowRepository']}:{chart['defaultAirflowTag']}"
    assert {container["image"] for container in (*pod["containers"], *pod["initContainers"])} == {image}


@both
@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_has_an_account_of_ours_and_resources(overlay: str, component: str) -> None:
    part = values(overlay)[component]

    assert part["serviceAccount"]["create"] is False
    assert named(overlay, "ServiceAccount", part["serviceAccount"]["name"], "airflow")
    assert part["resources"].keys() == {"requests", "limits"}


@both
def test_no_two_components_share_an_account_and_none_is_left(overlay: str) -> None:
    used = [values(overlay)[component]["serviceAccount"]["name"] for component in COMPONENTS]
    there = [
        body["metadata"]["name"]
        for body in of_kind(overlay, "ServiceAccount")
        if body["metadata"]["namespace"] == "airflow"
    ]

    assert sorted(used) == sorted(there)


@both
def test_pods_of_airflow_are_as_restricted_as_ours(overlay: str) -> None:
    chart = values(overlay)

    assert chart["securityContexts"] == {"pod": pod_security(), "containers": container_security()}
    assert (chart["uid"], chart["gid"]) == (USER, USER)
    for component in ("apiServer", "scheduler"):
        for container in chart[component]["extraInitContainers"]:
            assert container["securityContext"] == container_security()
            assert container["resources"].keys() == {"requests", "limits"}


@functools.cache
def known_options() -> dict[str, set[str]]:
    """Return Airflow's options by section, read from its files: importing Airflow would write its configuration."""
    core = metadata.distribution("apache-airflow-core").locate_file("airflow/config_templates/config.yml")
    described = yaml.safe_load(Path(str(core)).read_text(encoding="utf-8"))
    provider = metadata.distribution("apache-airflow-providers-cncf-kubernetes")
    said = runpy.run_path(str(provider.locate_file("airflow/providers/cncf/kubernetes/get_provider_info.py")))
    described |= said["get_provider_info"]()["config"]
    return {section: set(content["options"]) for section, content in described.items()}


@both
def test_every_option_is_one_that_airflow_knows(overlay: str) -> None:
    for section, options in values(overlay)["config"].items():
        assert set(options) <= known_options()[section], section


@both
def test_dags_and_plugins_are_where_the_image_has_them(overlay: str) -> None:
    dockerfile = (REPOSITORY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    core = values(overlay)["config"]["core"]

    assert "COPY code/ /opt/slipway/" in dockerfile
    assert (core["dags_folder"], core["plugins_folder"]) == ("/opt/slipway/dags", "/opt/slipway/plugins")


@both
def test_the_pools_that_tasks_ask_for_are_made(overlay: str) -> None:
    (pools,) = values(overlay)["scheduler"]["extraInitContainers"]

    for name, slots in POOLS.items():
        assert f"airflow pools set {name} {slots} " in pools["args"][0]


@both
def test_settings_and_secrets_come_from_where_the_overlay_puts_them(overlay: str) -> None:
    sources = yaml.safe_load(values(overlay)["extraEnvFrom"])

    assert named(overlay, "ConfigMap", sources[0]["configMapRef"]["name"], "airflow")
    pod = named(overlay, "Deployment", "slipway-controller")["spec"]["template"]["spec"]
    assert sources[1:] == pod["containers"][0]["envFrom"][1:]


@both
def test_whoever_opens_the_store_finds_its_keys_where_there_are_some(overlay: str) -> None:
    keys = {"secretRef": {"name": settings_of("kind")["SLIPWAY_STORE_SECRET"], "optional": True}}
    pod = named(overlay, "Deployment", "slipway-controller")["spec"]["template"]["spec"]

    assert keys in pod["containers"][0]["envFrom"]
    assert keys in yaml.safe_load(values(overlay)["extraEnvFrom"])
