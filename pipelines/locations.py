"""Addresses of data: they stand in specs, receipts and logs, so they hold no secret."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"^\w+://(?!arn:)[^/@]*:(?!\d+/)[^@]*@")
"""User and password before the host (a key of AWS may hold a slash); `https://host:8080/a@b` has none."""

_USER = re.compile(r"^https?://[^/?#]*@")
"""A user of HTTP may be a token; elsewhere (`abfs://container@account`, `sftp://user@host`) it is a name."""

_SIGNED = re.compile(
    r"(?i)[?&](?:x-(?:amz|goog)-(?:signature|credential|security-token)|sig|signature|(?:access_?)?token|(?:api_?)?key"
    r"|password|secret)="
)
_USER_IN_TEXT = re.compile(r"://[^/\s@]*@")

USE_THE_ENVIRONMENT = (
    "leave it out and give it by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role)"
)
"""What to do instead of writing a secret into an address."""


def holds_secret(url: str) -> bool:
    """Return whether a URL carries a password, a token or a signature."""
    return any(pattern.search(url) for pattern in (_PASSWORD, _USER, _SIGNED))


def without_users(text: str) -> str:
    """Return a text in which no URL names a user or a password."""
    return _USER_IN_TEXT.sub("://", text)
