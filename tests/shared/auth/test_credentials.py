"""Where the credential of a request is found, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp.auth import AuthenticationFailed, credential

KEY = "tas_0123456789ab_secret"
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["Authorization", "X-API-Key", "Sec-WebSocket-Protocol", "Host"]) | st.text(max_size=10),
        st.sampled_from(["Bearer ", "bearer x", "Basic x", "tas.bearer.x", "tas.v1, tas.bearer."]) | st.text(max_size=30),
    ),
    max_size=4,
)


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", f"Bearer {KEY}")],
        [("Authorization", f"bearer   {KEY} ")],
        [("authorization", KEY)],
        [("X-API-Key", KEY)],
        [(b"x-api-key", KEY.encode())],
        [("Host", "h"), ("Sec-WebSocket-Protocol", f"tas.v1, tas.bearer.{KEY}")],
        [("sec-websocket-protocol", f"tas.bearer.{KEY}"), ("sec-websocket-protocol", "tas.v1")],
    ],
)
def test_each_place_of_a_credential(headers: list[tuple[str, str]]) -> None:
    assert credential(headers) == KEY


@pytest.mark.parametrize("headers", [[], [("Host", "h")], [("Sec-WebSocket-Protocol", "tas.v1")]])
def test_none(headers: list[tuple[str, str]]) -> None:
    assert credential(headers) == ""


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", f"Basic {KEY}")],
        [("Authorization", f"Bearer {KEY} {KEY}")],
        [("Authorization", "")],
        [("X-API-Key", f"{KEY}\u00e9")],
        [("X-API-Key", "k" * 8193)],
        [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")],
        [("Authorization", f"Bearer {KEY}"), ("X-API-Key", KEY)],
        [("X-API-Key", KEY), ("Sec-WebSocket-Protocol", f"tas.bearer.{KEY}")],
    ],
)
def test_what_is_refused_is_not_shown(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(AuthenticationFailed) as caught:
        credential(headers)
    assert (caught.value.code, caught.value.reason) == ("UNAUTHORIZED", "malformed")
    assert KEY not in caught.value.detail


@given(HEADERS)
def test_whatever_is_sent_it_is_visible_text_or_refused(headers: list[tuple[str, str]]) -> None:
    try:
        found = credential(headers)
    except AuthenticationFailed:
        return
    assert all("!" <= character <= "~" for character in found)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=200))
def test_every_place_gives_the_same(secret: str) -> None:
    assert credential([("authorization", f"Bearer {secret}")]) == credential([("x-api-key", secret)]) == secret
