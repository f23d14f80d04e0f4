"""The DAG by which a person returns a service to an earlier version: its typed form, and its one task."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from pipelines.errors import BadInput
from pipelines.formats.catalog import Offers, ReleaseCatalog, ServedVersion
from slipway.dag import ALL_MODELS, task_defaults
from slipway.operators import LedgerStepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import BaseModel

    from pipelines.settings import Settings
    from pipelines.step import RunInfo

RETURN_TO = "return_to"
SERVICE, VERSION, BACKUP, ROLLOUT, PERSON = "service", "version", "backup", "rollout", "person"

_OFFER = r"^[^/]+/(version/[1-9][0-9]*|backup/[0-9A-Za-z._-]+)$"
_BY_HAND = "In other words"

_DOCUMENTATION = """Returns a service to a version that was in production; analysis is skipped.

* **A rollout is running**: it is aborted, and the users are with the old version at once. That is all, unless a
  version or a backup is named.
* **No rollout is running**: the named version (or the one before the present) is started, answers its golden requests,
  and takes all users; then the present one is drained and stopped.
* **A backup is named**: the version that it holds as the one in production is returned to, once every byte of the
  backup was read and is sound.

The form lists the versions and backups that were known a few seconds ago; what is true is asked when the run begins.

The same from a terminal, with Airflow down: `python -m pipelines release rollback <service>`.
"""


class ReturnOperator(LedgerStepOperator):
    """Return the service that the form names to a version that was in production."""

    def _ask(self, context: Context, info: RunInfo, settings: Settings) -> BaseModel:
        from pipelines.steps import return_to

        params = context["params"]
        wanted = chosen(params)
        of_service = info.model_copy(update={"model": wanted.pop(SERVICE)})
        person = (
            getattr(context["dag_run"], "triggering_user_name", None) or params.get(PERSON) or "somebody in Airflow"
        )
        inputs = return_to.Inputs(run=of_service, rollout=params.get(ROLLOUT), person=person, **wanted)
        return return_to.begin(inputs, settings)


def chosen(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return service, version and backup as the form has them: picked from the list, or in plain values.

    Raises:
        BadInput: when no service is named, or the two ways contradict each other.
    """
    plain = {name: params.get(name) for name in (SERVICE, VERSION, BACKUP)}
    if offer := params.get(RETURN_TO):
        service, kind, name = offer.split("/")
        picked = {SERVICE: service, kind: int(name) if kind == VERSION else name}
        other = next((field for field, value in plain.items() if value is not None and value != picked.get(field)), "")
        if other:
            raise BadInput(f"{RETURN_TO} is {offer!r}, but {other} is {plain[other]!r}; leave one of them empty")
        plain |= picked
    if plain[SERVICE] is None:
        raise BadInput(f"{RETURN_TO} and {SERVICE} are both empty; pick a version or a backup, or name a service")
    return {**plain, BACKUP: plain[BACKUP] or ""}


def offered(catalog: ReleaseCatalog) -> dict[str, str]:
    """Return what the form's list offers, with its labels: the latest first; what serves already is left out."""
    return {
        value: label
        for service, offers in sorted(catalog.services.items())
        for value, label in _offered(service, offers).items()
    }


def _offered(service: str, offers: Offers) -> dict[str, str]:
    versions = {
        f"{service}/{VERSION}/{version.number}": _version_label(service, version)
        for version in offers.versions
        if version.number != offers.serving
    }
    backups = {
        f"{service}/{BACKUP}/{backup.name}": f"backup {backup.name} · {service} {backup.version}"
        for backup in offers.backups
        if backup.version != offers.serving
    }
    return versions | backups


def _version_label(service: str, version: ServedVersion) -> str:
    return f"{service} {version.number} · in production from {datetime.fromtimestamp(version.since, UTC):%F %H:%M} UTC"


def rollback_arguments(services: list[str], catalog: ReleaseCatalog | None) -> dict[str, Any]:
    """Return the arguments of the DAG.

    Args:
        services: names that the form offers; they come from the specs, so that the form needs no database.
        catalog: known versions and backups; None: the form has plain fields only.
    """
    return {
        "dag_id": "rollback",
        "description": "Return a service to a version that was in production.",
        "doc_md": _DOCUMENTATION,
        "schedule": None,
        "catchup": False,
        "max_active_runs": 4,
        "tags": ["slipway", "release"],
        "params": {RETURN_TO: _list(catalog), **_plain_fields(services)},
        "default_args": task_defaults(ALL_MODELS, owner="slipway"),
    }


def _list(catalog: ReleaseCatalog | None) -> Param:
    offers = {} if catalog is None else offered(catalog)
    labels = {"null": "nothing from this list", **offers}
    choices: dict[str, Any] = {"enum": [None, *offers], "values_display": labels} if offers else {}
    return Param(
        None,
        type=["null", "string"],
        pattern=_OFFER,
        title="Return to",
        description_md="A known version, or the one in a known backup. Empty: what the fields below say.",
        **choices,
    )


def _plain_fields(services: list[str]) -> dict[str, Param]:
    return {
        SERVICE: Param(None, type=["null", "string"], enum=[None, *services], title="Service", section=_BY_HAND),
        VERSION: Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Version",
            description_md="Empty: the one before the present. The page **Releases** lists what there is.",
            section=_BY_HAND,
        ),
        BACKUP: Param(
            None,
            type=["null", "string"],
            maxLength=60,
            title="Backup",
            description_md="Its name: return to the version that it holds. `python -m pipelines backup list` has all.",
            section=_BY_HAND,
        ),
        ROLLOUT: Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Rollout",
            description_md="Abort this rollout and nothing else. Empty: whatever is running.",
            section=_BY_HAND,
        ),
        PERSON: Param(None, type=["null", "string"], maxLength=200, title="Ordered by", section=_BY_HAND),
    }
