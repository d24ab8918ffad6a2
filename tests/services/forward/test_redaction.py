"""What is told of a failure holds no secret of its target."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.forward.redaction import redacted
from services.forward.verdict import Failed, Gone, Refused
from tas_mcp import targets
from tas_mcp.targets import AnyTarget
from tests.planted import leaks, planted

PLANTED = planted("http://127.0.0.1:1", "127.0.0.1:1")
TARGETS = {name: targets.check(document)[0] for name, document in PLANTED.documents.items()}


def target(**config: object) -> AnyTarget:
    return targets.check({"id": "a", "type": "webhook", "endpoint": "http://a/", "config": config})[0]


@pytest.mark.parametrize("name", TARGETS)
def test_every_secret_that_comes_back_is_hidden(name: str) -> None:
    own = targets.secrets(TARGETS[name])
    assert own != []
    said = f"the target answered 500: you sent {' and '.join(own)}"
    found = redacted(Failed(500, said, 2.0, response=said), TARGETS[name])
    assert leaks(found.detail + found.response + str(found), PLANTED.secrets) == []
    assert found.detail.startswith("the target answered 500: you sent ***")
    assert (found.status, found.retry_after) == (500, 2.0)


@pytest.mark.parametrize(
    ("config", "sent"),
    [
        ({"authentication": {"type": "basic", "username": "me", "password": "pä ss"}}, b64encode("me:pä ss".encode()).decode()),
        ({"headers": {"Authorization": "Bearer abc-def"}}, "abc-def"),
        ({"authentication": {"type": "api_key", "key": "a/b c", "in": "query"}}, "a%2Fb%20c"),
        ({"authentication": {"type": "api_key", "key": "a/b c", "in": "query"}}, "a%2Fb+c"),
    ],
)
def test_it_is_hidden_in_the_form_in_which_it_was_sent(config: dict[str, object], sent: str) -> None:
    found = redacted(Refused(400, f"<{sent}>"), target(**config))
    assert found.detail == "<***>"


@given(st.integers(0, 30))
def test_a_text_that_ends_within_it_shows_no_more_than_its_beginning(cut: int) -> None:
    secret = "0123456789abcdefghijklmnopqrstuv"
    found = redacted(Refused(400, "sent: " + secret[:cut]), target(authentication={"type": "bearer", "token": secret}))
    assert found.detail == "sent: " + (secret[:cut] if cut < 4 else "***")


def test_the_rest_of_a_failure_stays() -> None:
    gone = Gone(410, "the target answered 410: no secret here", response="none")
    found = redacted(gone, target(authentication={"type": "bearer", "token": "abc"}))
    assert (found, found.detail, found.response) == (gone, "the target answered 410: no secret here", "none")
