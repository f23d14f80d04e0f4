"""Refusals of the API server: an exception with an HTTP code, and the `Status` object that clients read."""

from __future__ import annotations

from typing import Any

from tests.cluster.kinds import Kind


class Refused(Exception):
    """The API server says no."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details or {}

    def status(self) -> dict[str, Any]:
        """Return the body of the answer."""
        body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": str(self)}
        return body | {"reason": self.reason, "details": self.details, "code": self.code}


def _details(kind: Kind, name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "group": kind.group, "kind": kind.plural, **more}


def not_found(kind: Kind, name: str) -> Refused:
    """No object of this name."""
    return Refused(404, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


def no_such_page() -> Refused:
    """No such place in the API."""
    return Refused(404, "NotFound", "the server could not find the requested resource")


def already_exists(kind: Kind, name: str) -> Refused:
    """The name is taken."""
    return Refused(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', _details(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> Refused:
    """Somebody else was faster."""
    why = why or ("the object has been modified; please apply your changes to the latest version and try again")
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return Refused(409, "Conflict", message, _details(kind, name))


def invalid(kind: Kind, name: str, field: str, problem: str) -> Refused:
    """A field breaks a rule."""
    message = f'{kind.name}{"." + kind.group if kind.group else ""} "{name}" is invalid: {field}: {problem}'
    cause = {"reason": "FieldValueInvalid", "message": problem, "field": field}
    return Refused(422, "Invalid", message, _details(kind, name, causes=[cause]))


def unprocessable(why: str) -> Refused:
    """A JSON Patch does not fit the object, or one of its tests failed."""
    message = "the server rejected our request due to an error in our request"
    return Refused(422, "Invalid", message, {"causes": [{"message": why}]})


def bad_request(message: str) -> Refused:
    """The request makes no sense."""
    return Refused(400, "BadRequest", message)


def forbidden(kind: Kind, name: str, why: str) -> Refused:
    """The rules, a quota or an admission check say no."""
    return Refused(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: {why}', _details(kind, name))


def unauthorized() -> Refused:
    """The token is unknown."""
    return Refused(401, "Unauthorized", "Unauthorized")


def unsupported(content_type: str, accepted: list[str]) -> Refused:
    """The kind of patch is not taken here."""
    message = (
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
        f"; got {content_type}"
    )
    return Refused(415, "UnsupportedMediaType", message)


def gone(version: int) -> Refused:
    """A watch starts too far in the past."""
    return Refused(410, "Expired", f"too old resource version: {version}")


def unreachable(message: str) -> Refused:
    """A pod to which a request should go on does not answer."""
    return Refused(503, "ServiceUnavailable", message)


def too_many_requests(message: str) -> Refused:
    """A disruption budget is used up."""
    return Refused(429, "TooManyRequests", message)
