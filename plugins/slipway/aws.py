"""Credentials of an Airflow connection, for a task and for the processes that it starts."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def use_connection(conn_id: str) -> None:
    """Put what a connection says into this process's environment, where every library of AWS looks first.

    A task has a process of its own. What it starts inherits the variables; no argument, log or XCom holds them. They
    are those of this moment: when a role's credentials end in mid-step, the step fails and the next try gets others.

    Args:
        conn_id: of the amazon provider; empty: the environment stays as it is.

    Raises:
        AirflowFailException: when there is no such connection, or it leads to no credentials.
    """
    if not conn_id:
        return
    found = _variables(conn_id)
    for name in CREDENTIALS:
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in found.items() if value})


def _variables(conn_id: str) -> dict[str, str | None]:
    from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

    try:
        AwsGenericHook.get_connection(conn_id)  # the hook itself would make do with none
    except AirflowNotFoundException:
        raise AirflowFailException(
            f"SLIPWAY_AWS_CONN_ID: there is no connection {conn_id!r}; add it (`airflow connections add`), or unset it"
        ) from None
    hook: AwsGenericHook[Any] = AwsGenericHook(aws_conn_id=conn_id, client_type="s3")
    if hook.get_session().get_credentials() is None:
        raise AirflowFailException(
            f"SLIPWAY_AWS_CONN_ID: connection {conn_id!r} leads to no credentials; give it a key, a role or a profile"
        )
    credentials = hook.get_credentials()  # which also hides them in this task's log
    values = dict(zip(CREDENTIALS, (credentials.access_key, credentials.secret_key, credentials.token), strict=True))
    return values | {
        "AWS_DEFAULT_REGION": hook.conn_config.region_name,
        "AWS_ENDPOINT_URL_S3": hook.conn_config.get_service_endpoint_url("s3"),
    }
