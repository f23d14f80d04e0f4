"""Take out of a text what may say who wrote it or open a door: best effort, by patterns alone.

    e-mail addresses                           <email>
    user and password in a URL                 <credentials>
    query and fragment of a URL                <query>
    IP addresses                               <ip>
    values of `password=`, `token:`, ...       <secret>
    20 characters and more of base64 or hex    <secret>, when letters and digits are mixed in them
    telephone-like numbers, 6 digits in a row  <number>

When in doubt it goes: a date such as 2026-11-21 is a number too. Names of people, postal addresses, words that are
passwords and whatever is written so as not to be found stay. So what was redacted is still to be kept as a secret.

The texts are strangers': every pattern takes time linear in the text. Runs are possessive, and begin only where no run
of the same characters could have begun before.
"""

from __future__ import annotations

import ipaddress
import re

EMAIL = "<email>"
CREDENTIALS = "<credentials>"
QUERY = "<query>"
IP = "<ip>"
SECRET = "<secret>"  # noqa: S105 - the word that takes a secret's place
NUMBER = "<number>"

_AFTER_SCHEME = re.compile(r"""://((?:[^\s"'<>:]|:(?!//))++)""")
_PLAIN_QUERY = re.compile(r"""\?[\w.%-]++=[^\s"'<>]*+""")
_NAMED_SECRET = re.compile(
    r"""(?ix) ( (?:password|passwd|pwd|passphrase|secret|token|api[_-]?key|access[_-]?key|authorization)
    ["']?+ \s*+ [:=] \s*+ ["']?+ (?:(?:bearer|basic)\s++)?+ ) [^\s"'<>,;]++"""
)
_EMAIL = re.compile(r"(?<![\w.+'-])[\w.+'-]++(?:@|%40)[\w.-]++")
_IPV4 = re.compile(r"(?<!\d)\d{1,3}(?:\.\d{1,3}){3}(?!\d)")
_MAYBE_IPV6 = re.compile(r"(?<![\w:])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_LONG_RUN = re.compile(r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/=_-]{20,}+")
_NUMBER = re.compile(r"(?:\+ ?)?\(?\d(?:[ \t\u00a0().\-/–]{0,3}+\d){6,}+|\d{6,}+")


def redact(text: str) -> str:
    """Return the text with a fixed word in the place of whatever looks like a secret or a person's."""
    text = _AFTER_SCHEME.sub(_url, text)
    text = _PLAIN_QUERY.sub(f"?{QUERY}", text)
    text = _NAMED_SECRET.sub(rf"\g<1>{SECRET}", text)
    text = _EMAIL.sub(EMAIL, text)
    text = _IPV4.sub(IP, text)
    text = _MAYBE_IPV6.sub(_ipv6, text)
    text = _LONG_RUN.sub(_secret, text)
    return _NUMBER.sub(NUMBER, text)


def _url(found: re.Match[str]) -> str:
    address, *query = re.split(r"[?#]", found[1], maxsplit=1)
    authority, slash, path = address.partition("/")
    _, at, host = authority.rpartition("@")
    shown = f"{CREDENTIALS}@{host}" if at else authority
    return f"://{shown}{slash}{path}" + (f"?{QUERY}" if query else "")


def _ipv6(found: re.Match[str]) -> str:
    try:
        ipaddress.IPv6Address(found[0])
    except ValueError:  # a time of day, say
        return found[0]
    return IP


def _secret(found: re.Match[str]) -> str:
    run = found[0]
    is_mixed = any(character.isdigit() for character in run) and any(character.isalpha() for character in run)
    return SECRET if is_mixed else run
