"""The Prefer header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.preferences import MAX_SECONDS, wait


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], 0),
        (["wait=5"], 5),
        (["wait=0"], 0),
        (["WAIT = 5"], 5),
        (['wait="5"'], 5),
        (["wait=31"], MAX_SECONDS),
        (["wait=999999999"], MAX_SECONDS),
        (["respond-async, wait=5"], 5),
        (["wait=5; foo=bar, handling=strict"], 5),
        (["respond-async", "wait=5"], 5),
        (["wait=5", "wait=7"], 5),
        (["wait=5, wait=7"], 5),
        (["wait"], 0),
        (["wait="], 0),
        (["wait=-5"], 0),
        (["wait=1.5"], 0),
        (["wait=x, wait=7"], 7),
        (["await=5"], 0),
        (["return=minimal"], 0),
    ],
)
def test_wait(headers: list[str], seconds: int) -> None:
    assert wait(headers) == seconds


@given(st.lists(st.text()))
def test_a_preference_is_never_an_error(headers: list[str]) -> None:
    assert 0 <= wait(headers) <= MAX_SECONDS
