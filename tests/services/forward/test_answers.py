"""What an answer of a target means."""

import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.forward.answers import check_answer, retry_after, statuses
from services.forward.connection import Answer
from services.forward.verdict import Failed, Gone, Refused


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_delivered(status: int) -> None:
    check_answer(Answer(status, "", b"whatever"))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 599])
def test_failed(status: int) -> None:
    with pytest.raises(Failed) as caught:
        check_answer(Answer(status, "", b""))
    assert (caught.value.status, caught.value.retry_after) == (status, 0.0)
    assert caught.value.detail == f"the target answered {status}"


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 410, 413, 422, 451, 499])
def test_refused(status: int) -> None:
    with pytest.raises(Refused) as caught:
        check_answer(Answer(status, "9", b"\xffno " + b"x" * 1000))
    assert caught.value.status == status
    assert caught.value.detail == f"the target answered {status}: \ufffdno " + "x" * 196
    assert caught.value.response == "\ufffdno " + "x" * 1000
    assert isinstance(caught.value, Gone) == (status == 410)


@pytest.mark.parametrize(
    ("given", "retryable", "still_refused"),
    [
        ((), (408, 425, 429, 500, 599), (300, 399, 400, 404, 409, 410, 499)),
        ((409, 410), (409, 410, 429, 503), (400, 411)),
        (("4xx", 302), (400, 410, 499, 302, 503), (301, 300)),
        (("3xx", "5xx"), (300, 308, 399, 500), (400,)),
    ],
)
def test_what_a_document_adds_is_tried_again(given: tuple[int | str, ...], retryable: Any, still_refused: Any) -> None:
    for status in retryable:
        with pytest.raises(Failed) as caught:
            check_answer(Answer(status, "3", b"no"), statuses(given))
        assert (caught.value.retry_after, caught.value.response) == (3.0, "no")
    for status in still_refused:
        with pytest.raises(Refused):
            check_answer(Answer(status, "", b""), statuses(given))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("", 0), ("0", 0), ("120", 120), ("1.5", 0), ("-5", 0), ("soon", 0), ("³", 0), ("9" * 50, 999_999_999), ("Mon, 1", 0)],
)
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert retry_after(value) == seconds


def test_retry_after_as_a_date() -> None:
    now = time.time()
    assert retry_after(formatdate(now + 100, usegmt=True)) == pytest.approx(100, abs=3)
    assert retry_after(formatdate(now - 100, usegmt=True)) == 0


@given(st.text(max_size=40))
def test_retry_after_takes_any_text(value: str) -> None:
    assert 0 <= retry_after(value) < float("inf")
