"""The one file that Airflow's plugin loader executes: registers Slipway's listeners and its page.

Every process of Airflow executes it, each task's too; so it imports little, and the page when somebody asks for it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from airflow.plugins_manager import AirflowPlugin

from slipway import listener

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send


async def releases(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve the page "Releases"."""
    await _releases_app()(scope, receive, send)


@functools.cache
def _releases_app() -> FastAPI:
    from slipway.ui.app import releases_app

    return releases_app()


class SlipwayPlugin(AirflowPlugin):
    """Slipway in Airflow."""

    name = "slipway"
    listeners = [listener]  # noqa: RUF012 - Airflow's own shape, as the lists below
    fastapi_apps = [{"app": releases, "url_prefix": "/slipway", "name": "Releases"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "Releases",
            "href": "slipway/",  # relative: Airflow may live below a path
            "url_route": "releases",
            "destination": "nav",
            "nav_top_level": True,
            "icon": "slipway/static/icon.svg",
            "icon_dark_mode": "slipway/static/icon.svg",
        }
    ]
