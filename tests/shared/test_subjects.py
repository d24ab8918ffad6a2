"""Names on the broker: any text becomes a legal token and comes back unchanged."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tas_mcp import subjects

SAFE = re.compile(r"[A-Za-z0-9_=-]+")
SUBJECT = re.compile(r"[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+)*")

# Any text, with the characters that mean something to the encoding or the broker made likely.
TEXT = st.text() | st.text(alphabet=".*>=$ \t\0ABab09_-/\\é€😀", max_size=20)


@given(TEXT)
def test_a_token_is_legal_and_comes_back(text: str) -> None:
    token = subjects.token(text)
    assert SAFE.fullmatch(token)
    assert subjects.text(token) == text


@given(TEXT, TEXT)
def test_distinct_texts_have_distinct_tokens(one: str, other: str) -> None:
    assert (subjects.token(one) == subjects.token(other)) == (one == other)


@given(TEXT)
def test_an_event_type_is_legal_and_comes_back(event_type: str) -> None:
    subject = subjects.events(event_type)
    assert SUBJECT.fullmatch(subject)
    assert subjects.event_type(subject) == event_type


@given(TEXT, TEXT)
def test_distinct_event_types_have_distinct_subjects(one: str, other: str) -> None:
    assert (subjects.events(one) == subjects.events(other)) == (one == other)


@given(TEXT, st.integers(min_value=1, max_value=2**63))
def test_a_target_is_one_token_of_its_subjects(target_id: str, seq: int) -> None:
    for subject in (subjects.deliveries(target_id), subjects.dead(target_id), subjects.retries(target_id, seq)):
        assert SUBJECT.fullmatch(subject)
        assert subjects.target_id(subject) == target_id
    assert subjects.deliveries(target_id).count(".") == 2
    assert subjects.retries(target_id, seq) == subjects.all_retries(target_id)[:-1] + str(seq)
    assert SAFE.fullmatch(subjects.forward_consumer(target_id))


@given(TEXT)
def test_a_key_is_one_token_of_its_bucket(key: str) -> None:
    subject = subjects.bucket_key("tas_targets", key)
    prefix, token = subject.rsplit(".", 1)
    assert prefix + ".>" == subjects.bucket_keys("tas_targets")
    assert subjects.text(token) == key


@pytest.mark.parametrize(
    ("event_type", "subject"),
    [
        ("user.created", "tas.events.user.created"),
        ("com.example/order placed", "tas.events.com.example=2Forder=20placed"),
        ("", "tas.events.="),
        ("a..b", "tas.events.a.=.b"),
        ("*", "tas.events.=2A"),
        ("a.>", "tas.events.a.=3E"),
        ("=", "tas.events.=3D"),
        ("é", "tas.events.=C3=A9"),
    ],
)
def test_what_an_operator_sees(event_type: str, subject: str) -> None:
    assert subjects.events(event_type) == subject


@pytest.mark.parametrize("token", ["=4", "=ZZ", "=FF", "a=C3"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        subjects.text(token)
