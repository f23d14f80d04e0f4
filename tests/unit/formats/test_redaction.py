"""Redaction: what was planted in a text is gone, what is no secret stays, and hostile texts take no time."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.formats.redaction import redact

AWS_KEY = "AKIAIOSFODNN7" + "EXAMPLE"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        pytest.param("write to jane.doe+x@mail.example.org.", "write to <email>", id="email"),
        pytest.param("mailto:jane%40example.org", "mailto:<email>", id="quoted-email"),
        pytest.param("<jürgen@bücher.de>", "<<email>>", id="email-beyond-ascii"),
        pytest.param(
            "clone https://jane:hunter2@git.example/repo.git",
            "clone https://<credentials>@git.example/repo.git",
            id="url",
        ),
        pytest.param("GET https://a.example/b?user=jane#top now", "GET https://a.example/b?<query> now", id="query"),
        pytest.param("see /reset?code=abc, please", "see /reset?<query> please", id="query-without-host"),
        pytest.param(
            "http://a.b/x,ftp://u:p@c.d/y", "http://a.b/x,ftp://<credentials>@c.d/y", id="two-urls-in-one-word"
        ),
        pytest.param("from 192.168.0.17:8080", "from <ip>:8080", id="ipv4"),
        pytest.param("at fe80::1ff:fe23:4567:890a and 2001:db8::", "at <ip> and <ip>", id="ipv6"),
        pytest.param("password = hunter2; go", "password = <secret>; go", id="password"),
        pytest.param('{"api_key": "abc"}', '{"api_key": "<secret>"}', id="json-key"),
        pytest.param("Authorization: Bearer abc.def", "Authorization: Bearer <secret>", id="bearer"),
        pytest.param(f"key {AWS_KEY}", "key <secret>", id="access-key"),
        pytest.param("sha 9f86d081884c7d659a2feaa0c55ad015", "sha <secret>", id="hex"),
        pytest.param("call +49 (0)30 123-4567 or 555.123.4567", "call <number> or <number>", id="phone"),
        pytest.param("card 4111 1111 1111 1111", "card <number>", id="card"),
        pytest.param("order 123456", "order <number>", id="digits"),
        pytest.param("on 2026-11-21", "on <number>", id="in-doubt-it-goes"),
    ],
)
def test_what_may_be_secret_is_replaced(text: str, redacted: str) -> None:
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "Return the value of the named attribute of an object, or the default if it has none.",
        "def test_each_reference_is_scored_once_per_pair(values): return values[::2]",
        "At 12:30:45 there were 12,345 of them; pi is 3.14159, port 8080, year 2026.",
        "See https://docs.example.org/library/os.path.html for std::vector and @property.",
        "Is a token a word? ExpectColumnQuantileValuesToBeBetween, 1.2.3, a == b ? c : d",
        "naïve café, 東京, 🙂\n\ttabs and\x00control characters",
        "",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


WORDS = st.text(st.sampled_from(string.ascii_letters + string.digits), min_size=8, max_size=12)
NOISE = st.text(st.sampled_from("ab. ,;:/?=&@'\"()<>{}\n-+_%#é5"), max_size=30)
PLANTS = {
    "email": "{secret}@example.org",
    "password": "https://jane:{secret}@example.org/x",
    "user": "https://{secret}@example.org/x",
    "query": "https://example.org/x?name={secret}&b=1",
    "fragment": "https://example.org/x#{secret}",
    "named": "token={secret}",
    "bearer": "authorization: bearer {secret}",
}


@given(noise=st.tuples(NOISE, NOISE), plant=st.sampled_from(sorted(PLANTS)), secret=WORDS)
def test_a_planted_secret_is_gone_whatever_stands_around_it(noise: tuple[str, str], plant: str, secret: str) -> None:
    before, after = noise
    assert secret not in redact(f"{before} {PLANTS[plant].format(secret=secret)} {after}")


@given(noise=st.tuples(NOISE, NOISE), digits=st.text("0123456789", min_size=6, max_size=20))
def test_a_planted_number_is_gone(noise: tuple[str, str], digits: str) -> None:
    before, after = noise
    assert digits not in redact(f"{before}{digits}{after}")


@given(st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str).filter(lambda address: address[0] != ":"))
def test_a_planted_address_is_gone(address: str) -> None:
    assert redact(f"from {address}, they say") == "from <ip>, they say"


@given(st.text(st.characters(codec="utf-8")) | NOISE)
@example("a@b@c@d")
def test_what_was_redacted_holds_nothing_more_to_redact(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "1",
        "a.",
        "a@",
        "@",
        "://",
        "://a:",
        "?a",
        "?a=",
        "1.",
        "1 ",
        "a:",
        "ab:",
        "token",
        "token ",
        "token=",
        "+(",
        "a1",
        "%40",
    ],
)
def test_time_grows_with_the_length_of_a_hostile_text_and_not_with_its_square(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        return min(_timed(text) for _ in range(3))

    assert seconds(50_000) < 30 * max(seconds(5_000), 0.001)


def _timed(text: str) -> float:
    begun = time.process_time()
    redact(text)
    return time.process_time() - begun
