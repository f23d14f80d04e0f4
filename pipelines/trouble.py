"""What errors of file systems and object stores mean, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipelines.locations import without_users

EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
"""S3's codes for credentials that have ended."""


_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "httpx")
"""Libraries whose errors say that the other side does not answer as it should."""


class Unsound(OSError):
    """What came or went is cut, or is not what was sent."""


class Kind(StrEnum):
    """Why a place cannot be used."""

    ABSENT = "absent"
    DENIED = "denied"
    MISCONFIGURED = "misconfigured"
    """Settings with which it cannot work, however often it is tried."""

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
    return _explain_settings(error) or _explain_refusal(error) or _explain_answer(error)


def error_code(error: BaseException) -> str:
    """Return S3's word for what is wrong, such as NoSuchBucket; empty when S3 said none."""
    return str(_refusal(error).get("Error", {}).get("Code", ""))


def status_code(error: BaseException) -> int:
    """Return the HTTP status of a refusal by S3; 0 when there was none."""
    return int(_refusal(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_missing_bucket(error: BaseException) -> bool:
    """Return whether a server said that there is no such bucket."""
    return error_code(error) == "NoSuchBucket"


def is_missing_key(error: BaseException) -> bool:
    """Return whether a server said that there is no such object."""
    return error_code(error) in ("NoSuchKey", "404")


_CREATE_THE_BUCKET = "create it, or correct its name; AWS_ENDPOINT_URL says which server is asked"
_CORRECT_THE_ENDPOINT = "set AWS_ENDPOINT_URL to http(s)://host:port, or unset it"
_CORRECT_THE_VARIABLES = "correct the AWS_ variables, or the profile that they name"
_NAME_A_BUCKET = "a bucket has 3 to 63 lower-case letters, digits, dots and hyphens"
_GIVE_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give a role, where the step runs"
)
_CORRECT_THE_CREDENTIALS = (
    "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the profile, or the connection that SLIPWAY_AWS_CONN_ID names"
)
_RENEW = (
    "a role's or a connection's are fetched anew by the next try; renew those that were set by hand "
    "(AWS_SESSION_TOKEN, or the profile)"
)
_LOG_IN = "log in again (`aws sso login`), where the step runs"
_CHOOSE_ANOTHER_SERVER = "use S3, or a server that knows conditional writes (If-None-Match, If-Match)"
_SET_THE_CLOCK = "set the clock by NTP (`timedatectl` shows whether it is), then clear the task"


_UNUSABLE = {
    "ParamValidationError": ("the name of the bucket is not valid", _NAME_A_BUCKET),
    "NoCredentialsError": ("no credentials were found", _GIVE_CREDENTIALS),
    **dict.fromkeys(
        ("UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError"),
        ("the login that gives credentials has ended", _LOG_IN),
    ),
}
"""What botocore's errors about this side mean, and the way out."""


def _explain_settings(error: Exception) -> Trouble | None:
    """Return what is wrong with this side, before anything was asked of the other."""
    name = type(error).__name__
    if name in _UNUSABLE:
        return Trouble(Kind.MISCONFIGURED, *_UNUSABLE[name])
    match name:
        case "CredentialRetrievalError":
            return Trouble(Kind.AWAY, _reason(error), "see why the role or program that gives credentials gave none")
        case "PartialCredentialsError" | "ProfileNotFound" | "ConfigParseError" | "InvalidRegionError":
            return Trouble(Kind.MISCONFIGURED, _reason(error), _CORRECT_THE_VARIABLES)
        case "ValueError" if str(error).startswith("Invalid endpoint"):  # botocore has no class for it
            return Trouble(Kind.MISCONFIGURED, _reason(error), _CORRECT_THE_ENDPOINT)
    return None


def _explain_refusal(error: Exception) -> Trouble | None:
    """Return what S3 means by its code, or None when the code needs no other words than S3's own."""
    explained = _REFUSALS.get(error_code(error))
    return None if explained is None else explained(error)


def _explain_answer(error: Exception) -> Trouble | None:
    """Return what the other side said, or that it said nothing."""
    if isinstance(error, Unsound):
        return Trouble(
            Kind.AWAY, _reason(error), "look for what changes or cuts what passes between here and the server"
        )
    if isinstance(error, FileNotFoundError):
        return Trouble(Kind.ABSENT, "it does not exist", "check the spelling and the folder")
    if isinstance(error, PermissionError):
        return Trouble(Kind.DENIED, f"no permission: {_reason(error)}", "grant it to this user, or give credentials")
    if isinstance(error, OSError) or type(error).__module__.startswith(_CLIENTS):
        return Trouble(Kind.AWAY, _reason(error), "check its address (for S3: AWS_ENDPOINT_URL) and the network")
    return None


def _absent(_: Exception) -> Trouble:
    return Trouble(Kind.ABSENT, "the bucket does not exist", _CREATE_THE_BUCKET)


def _elsewhere(error: Exception) -> Trouble:
    response = _refusal(error)
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    reason = f"the bucket is in another region{f', {region}' if region else ''}"
    way_out = f"set AWS_DEFAULT_REGION to {region or 'that region'}, or name a bucket of this region"
    return Trouble(Kind.MISCONFIGURED, reason, way_out)


def _wrong(error: Exception) -> Trouble:
    return Trouble(Kind.MISCONFIGURED, f"the credentials are wrong ({error_code(error)})", _CORRECT_THE_CREDENTIALS)


def _expired(_: Exception) -> Trouble:
    return Trouble(Kind.AWAY, "the credentials have expired", _RENEW)


def _skewed(error: Exception) -> Trouble:
    said = _refusal(error).get("Error", {})
    told = (said.get("RequestTime"), said.get("ServerTime"))
    clocks = f": it says {told[0]}, the server {told[1]}" if all(told) else ""
    return Trouble(Kind.MISCONFIGURED, f"this machine's clock is wrong{clocks}", _SET_THE_CLOCK)


def _denied(error: Exception) -> Trouble:
    action = _action(error)
    hint = "; s3:ListBucket, too: without it, S3 says the same of what is missing" if action == "s3:GetObject" else ""
    reason = f"no permission for {action}" if action else "no permission"
    return Trouble(Kind.DENIED, reason, f"grant it to this user, or give credentials that have it{hint}")


def _not_offered(_: Exception) -> Trouble:
    return Trouble(Kind.MISCONFIGURED, "the server does not offer this (NotImplemented)", _CHOOSE_ANOTHER_SERVER)


def _replaced(_: Exception) -> Trouble:
    return Trouble(Kind.AWAY, "it was replaced while it was read", "try again")


_REFUSALS: Mapping[str, Callable[[Exception], Trouble]] = {
    "NoSuchBucket": _absent,
    **dict.fromkeys(
        ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _elsewhere
    ),
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidIdentityToken", "AuthFailure"), _wrong
    ),
    **dict.fromkeys(EXPIRED, _expired),
    "RequestTimeTooSkewed": _skewed,
    **dict.fromkeys(("AccessDenied", "403"), _denied),
    "NotImplemented": _not_offered,
    "PreconditionFailed": _replaced,
}
"""What S3's codes mean; see "Error responses" in the API reference of Amazon S3."""


def _refusal(error: BaseException) -> Mapping[str, Any]:
    """Return S3's answer behind an error of botocore, or behind one that s3fs made of it; empty when there is none."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, Mapping):
            return response
    return {}


def _action(error: BaseException) -> str:
    """Return the permission that a refused request needs, as policies of IAM spell it."""
    operation = next((name for each in (error, error.__cause__) if (name := getattr(each, "operation_name", ""))), "")
    match operation:
        case "ListObjectsV2":
            return "s3:ListBucket"
        case "HeadObject":
            return "s3:GetObject"
        case "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload":
            return "s3:PutObject"
        case "":
            return ""
        case "AssumeRole" | "AssumeRoleWithWebIdentity":
            return f"sts:{operation}"
        case _:
            return f"s3:{operation}"


def _reason(error: Exception) -> str:
    """Return what the other side said, in one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return without_users(" ".join(said.split()).rstrip(".")) or type(error).__name__
