"""What errors of file systems and object stores mean, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipelines.locations import without_users


class Kind(StrEnum):
    """Why a place cannot be used."""

    ABSENT = "absent"
    DENIED = "denied"
    MISCONFIGURED = "misconfigured"
    """Settings that cannot work, whatever the other side says."""

    AWAY = "away"
    """The other side does not answer as it should at present."""


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a place, and what its user can do."""

    kind: Kind
    reason: str
    way_out: str


def explain(error: Exception) -> Trouble | None:
    """Return what an error means, or None when it is of no file system and of no object store.

    The classes of botocore are known by name, so that it is imported by nobody who does not use it.
    """
    return _explain_settings(error) or _explain_answer(error)


def is_missing_bucket(error: Exception) -> bool:
    """Return whether a server said that there is no such bucket: s3fs makes a FileNotFoundError of it."""
    response = getattr(error.__cause__, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") == "NoSuchBucket"


_CREATE_THE_BUCKET = "create it, or correct its name; AWS_ENDPOINT_URL says which server is asked"
_CORRECT_THE_ENDPOINT = "set AWS_ENDPOINT_URL to http(s)://host:port, or unset it"
_CORRECT_THE_VARIABLES = "correct the AWS_ variables, or the profile that they name"
_NAME_A_BUCKET = "a bucket has 3 to 63 lower-case letters, digits, dots and hyphens"
_GIVE_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give a role, where the step runs"
)


def _explain_settings(error: Exception) -> Trouble | None:
    """Return what is wrong with this side, before anything was asked of the other."""
    match type(error).__name__:
        case "ParamValidationError":
            return Trouble(Kind.MISCONFIGURED, "the name of the bucket is not valid", _NAME_A_BUCKET)
        case "NoCredentialsError":  # a role's credentials come from a server, which may be away
            return Trouble(Kind.AWAY, "no credentials were found", _GIVE_CREDENTIALS)
        case "PartialCredentialsError" | "ProfileNotFound" | "ConfigParseError" | "InvalidRegionError":
            return Trouble(Kind.MISCONFIGURED, _reason(error), _CORRECT_THE_VARIABLES)
        case "ValueError" if str(error).startswith("Invalid endpoint"):  # botocore has no class for it
            return Trouble(Kind.MISCONFIGURED, _reason(error), _CORRECT_THE_ENDPOINT)
    return None


def _explain_answer(error: Exception) -> Trouble | None:
    """Return what the other side said, or that it said nothing."""
    if is_missing_bucket(error):
        return Trouble(Kind.ABSENT, "the bucket does not exist", _CREATE_THE_BUCKET)
    if isinstance(error, FileNotFoundError):
        return Trouble(Kind.ABSENT, "it does not exist", "check the spelling and the folder")
    if isinstance(error, PermissionError):
        return Trouble(Kind.DENIED, f"no permission: {_reason(error)}", "grant it to this user, or give credentials")
    if isinstance(error, OSError) or type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
        return Trouble(Kind.AWAY, _reason(error), "check its address (for S3: AWS_ENDPOINT_URL) and the network")
    return None


def _reason(error: Exception) -> str:
    """Return what the other side said, in one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return without_users(" ".join(said.split()).rstrip(".")) or type(error).__name__
