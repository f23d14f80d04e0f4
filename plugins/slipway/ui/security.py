"""Who may see the page and who may order: Airflow's own permissions, and a proof that an order comes from the page.

A mounted app has no protection of its own. The session is a cookie, which a browser sends along with whatever another
site makes it send; so an order must also carry a token that only a page of the same session could read.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.auth.tokens import get_signing_key
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.configuration import conf
from airflow.models.dag import DagModel
from fastapi import Depends, Header, HTTPException, Request, status

DAG_ID = "rollback"
"""DAG that carries out an order; who may trigger it may press the buttons."""

READING = Depends(requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=DAG_ID))
ORDERING = Depends(requires_access_dag("POST", DagAccessEntity.RUN, param_dag_id=DAG_ID))


def may_order(user: BaseUser) -> bool:
    """Say whether a person may trigger the DAG `rollback`."""
    details = DagDetails(id=DAG_ID, team_name=DagModel.get_team_name(DAG_ID))
    return get_auth_manager().is_authorized_dag(
        method="POST", access_entity=DagAccessEntity.RUN, details=details, user=user
    )


def page_token(request: Request) -> str:
    """Return what an order of this session must carry: it can be made only here, and is worthless in any other one."""
    key = get_signing_key("api", "secret_key", make_secret_key_if_needed=False)
    return hmac.new(key.encode(), b"slipway order\0" + _credential(request).encode(), hashlib.sha256).hexdigest()


def check_origin(request: Request, x_slipway_token: Annotated[str, Header()] = "") -> None:
    """Refuse an order that does not come from a page of this very session.

    Raises:
        HTTPException: 403, whatever is wrong.
    """
    if request.headers.get("origin") not in _own_origins(request):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "The order comes from another site; nothing was done.")
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(status.HTTP_403_FORBIDDEN, "The order comes from another site; nothing was done.")
    if not hmac.compare_digest(x_slipway_token.encode(), page_token(request).encode()):
        raise HTTPException(status.HTTP_403_FORBIDDEN, "The page is out of date; load it again. Nothing was done.")


def _credential(request: Request) -> str:
    """Return what proved who asks, by Airflow's own precedence."""
    return request.headers.get("authorization") or request.cookies.get(COOKIE_NAME_JWT_TOKEN, "")


def _own_origins(request: Request) -> set[str]:
    """Return the origins of this server, as it was reached and as it is told that it is reached through a proxy."""
    urls = (str(request.base_url), conf.get("api", "base_url", fallback=""))
    return {f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, urls) if parts.netloc}
